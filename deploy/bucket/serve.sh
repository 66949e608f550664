#!/bin/sh
# The S3 server, without Docker: serve.sh PROGRAM HOST PORT FOLDER. PROGRAM is `versitygw`, or else moto's server, which
# keeps all in memory. The keys are in the file S3_KEYS_FILE.
set -eu

# shellcheck disable=SC1090 # made by create_environment.sh
. "$S3_KEYS_FILE"

case "${1##*/}" in
  versitygw*)
    export ROOT_ACCESS_KEY ROOT_SECRET_KEY
    mkdir -p "$4/buckets" "$4/metadata"
    # Beside the files, since not every file system has extended attributes.
    exec "$1" --port "$2:$3" --region us-east-1 --quiet posix --sidecar "$4/metadata" "$4/buckets"
    ;;
  *)
    exec "$1" -H "$2" -p "$3"
    ;;
esac
