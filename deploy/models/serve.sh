#!/bin/sh
# Serves one model version: serve.sh NAME VERSION HOST PORT, with the variables of MLflow's client.
set -eu
exec mlflow models serve --model-uri "models:/$1/$2" --env-manager local --host "$3" --port "$4"
