#!/bin/sh
# MLflow's server on PostgreSQL and S3. Started again with a newer MLflow, it upgrades its database first.
#
# Of the environment: POSTGRES_HOST, POSTGRES_PORT, POSTGRES_PASSWORD_FILE, MLFLOW_S3_ENDPOINT_URL,
# AWS_SHARED_CREDENTIALS_FILE, BUCKET_NAME, ALLOWED_HOSTS (separated by commas), MLFLOW_BIND, MLFLOW_BIND_PORT.
set -eu

PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
# The password is not part of the URL: the URL is logged, and stands in lists of processes.
export PGPASSWORD
store="postgresql+psycopg2://mlflow@$POSTGRES_HOST:$POSTGRES_PORT/mlflow"

python "$(dirname "$0")/prepare.py" "$store"

# Clients put artifacts into the bucket themselves, and take them from there.
exec mlflow server \
  --backend-store-uri "$store" \
  --default-artifact-root "s3://$BUCKET_NAME" --no-serve-artifacts \
  --host "$MLFLOW_BIND" --port "$MLFLOW_BIND_PORT" --workers "${MLFLOW_WORKERS:-1}" \
  --allowed-hosts "$ALLOWED_HOSTS"
