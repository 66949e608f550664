#!/usr/bin/env bash
# The whole environment of prinz-enricher, from nothing: PostgreSQL, an S3 server, MLflow on both, the sample models
# trained and served, a proxy before them, and prinz-enricher.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'TEXT'
Usage: ./create_environment.sh [COMMAND] [OPTIONS]

Commands:
  up       Create what is not there, start what does not run, and wait until all is healthy (default). Again after a
           change in .env: only what changed is made anew.
  down     Stop everything. Data stays.
  status   Tell what runs, and how it fares.
  logs     Show the end of the logs (of one program: logs NAME).

Options:
  --without-docker   As plain processes under a supervisor, everything in .environment/.
  --install          Without Docker, on Debian: install what is missing (as root, or by sudo).
  --volumes          With down: remove the data as well.
  --nussknacker      With Docker: Nussknacker's designer too.
  --follow           With logs: go on as more is written.
  -h, --help         Show this.

Ports and versions are in .env; a variable of the shell with the same name wins. Docs: docs/environment.md.
TEXT
}

fail() {
  printf 'create_environment.sh: %s\n' "$*" >&2
  exit 1
}

command=up docker=yes install=no profile=() rest=()
case "${1:-}" in
  up | down | status | logs) command=$1 && shift ;;
esac
for argument in "$@"; do
  case "$argument" in
    --without-docker) docker=no ;;
    --install) install=yes ;;
    --nussknacker) profile=(--profile nussknacker) ;;
    --volumes | --follow) rest+=("$argument") ;;
    -h | --help) usage && exit 0 ;;
    -*) usage >&2 && fail "no such option: $argument" ;;
    *) [[ $command == logs ]] || { usage >&2 && fail "no such command: $argument"; }
       rest+=("$argument") ;;
  esac
done

# .env says what the shell does not.
while IFS='=' read -r name value || [[ -n $name ]]; do
  [[ $name =~ ^[A-Z0-9_]+$ && ! -v $name ]] && export "$name=$value"
done <.env
home=${ENVIRONMENT_HOME:-$PWD/.environment}
mkdir -p "$home/secrets" "$home/logs" "$home/bin"
home=$(cd "$home" && pwd)
export ENVIRONMENT_HOME=$home

# A dozen processes import MLflow; without what Python keeps of it, each compiles it anew.
unset PYTHONDONTWRITEBYTECODE

random() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }

# Readable for the users of containers; the folder is this user's alone.
make_secrets() {
  chmod 700 "$home/secrets"
  [[ -e $home/secrets/postgres-password ]] || random >"$home/secrets/postgres-password"
  if [[ ! -e $home/secrets/s3.env || ! -e $home/secrets/aws-credentials ]]; then
    local key=prinz secret
    secret=$(random)
    printf 'ROOT_ACCESS_KEY=%s\nROOT_SECRET_KEY=%s\n' "$key" "$secret" >"$home/secrets/s3.env"
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" \
      >"$home/secrets/aws-credentials"
  fi
  chmod 644 "$home"/secrets/*
}

with_docker() {
  docker compose version >/dev/null 2>&1 ||
    fail "Docker with its compose plugin is needed: https://docs.docker.com/engine/install/; or use --without-docker"
  [[ $home == "$PWD/.environment" ]] || fail "with Docker, ENVIRONMENT_HOME can't be chosen"
  case "$command" in
    up)
      make_secrets
      docker compose "${profile[@]}" up --build --detach --wait --wait-timeout 600
      ;;
    # Of every profile, whichever was started.
    down) docker compose --profile nussknacker down --remove-orphans "${rest[@]}" ;;
    status) docker compose --profile nussknacker ps --all ;;
    logs) docker compose --profile nussknacker logs --tail 50 "${rest[@]}" ;;
  esac
}

# Without Docker.

# The folder of the newest PostgreSQL's programs.
postgres_programs() {
  local folder newest=
  for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
    [[ -x $folder/initdb && -x $folder/postgres ]] && newest=$folder
  done
  if [[ -z $newest ]] && folder=$(command -v initdb); then
    newest=$(dirname "$(readlink -f "$folder")")
  fi
  printf '%s' "$newest"
}

nginx_program() { command -v nginx || { [[ -x /usr/sbin/nginx ]] && echo /usr/sbin/nginx; }; }

new_python() { python3 -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# What is missing, as Debian's packages.
missing() {
  new_python || echo python3 python3-venv
  [[ -n $(postgres_programs) ]] || echo postgresql
  [[ -n $(nginx_program) ]] || echo nginx-light
}

install_missing() {
  local packages as_root=()
  read -ra packages <<<"$(missing | tr '\n' ' ')"
  ((${#packages[@]})) || return 0
  local command="apt-get install ${packages[*]}"
  [[ $install == yes ]] || fail "missing here: ${packages[*]}. On Debian: $command; or give --install"
  command -v apt-get >/dev/null || fail "--install knows Debian's apt-get only; missing here: ${packages[*]}"
  [[ $EUID == 0 ]] || as_root=(sudo)
  # Debian starts a server with its package; ours are started here.
  local policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    # shellcheck disable=SC2064 # as it is now
    trap "${as_root[*]} rm -f $policy" EXIT
  fi
  "${as_root[@]}" apt-get update --quiet
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install --yes --quiet --no-install-recommends "${packages[@]}"
  if [[ -e $policy ]] && trap -p EXIT | grep -q policy-rc.d; then
    "${as_root[@]}" rm -f "$policy"
    trap - EXIT
  fi
}

# A step that is done once: make_once STAMP WHAT COMMAND…; its output is kept, and shown where it fails. `set -e` does
# not hold in what is asked whether it failed: each command of a step says `&&`.
make_once() {
  local stamp=$1 what=$2 log
  shift 2
  [[ -e $stamp ]] && return
  log=$home/logs/create-$(basename "$1").log
  echo "creating: $what"
  "$@" >"$log" 2>&1 && touch "$stamp" && return
  tail -n 20 "$log" >&2
  echo "failed: $what; all of it: $log" >&2
  return 1
}

make_service() {
  rm -rf "$home/service" &&
    python3 -m venv "$home/service" &&
    "$home/service/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv &&
    "$home/service/bin/uv" pip install --quiet --python "$home/service/bin/python" --constraint constraints.txt \
      --editable '.[s3]' --group environment
}

make_mlflow() {
  local wanted="mlflow==$MLFLOW_VERSION" constraints=()
  # Another MLflow may want other versions of everything.
  grep -qx "$wanted" constraints.txt && constraints=(--constraint constraints.txt)
  rm -rf "$home/mlflow-$MLFLOW_VERSION" &&
    "$home/service/bin/uv" venv --quiet --python "$home/service/bin/python" "$home/mlflow-$MLFLOW_VERSION" &&
    "$home/service/bin/uv" pip install --quiet --python "$home/mlflow-$MLFLOW_VERSION/bin/python" \
      "${constraints[@]}" "$wanted" --requirement deploy/mlflow/requirements.txt
}

make_versitygw() {
  GOBIN=$home/bin go install "github.com/versity/versitygw/cmd/versitygw@v$VERSITYGW_VERSION" &&
    mv "$home/bin/versitygw" "$home/bin/versitygw-$VERSITYGW_VERSION"
}

# A real S3 server where one can be had; else one in memory.
make_bucket_server() {
  local program="$home/bin/versitygw-$VERSITYGW_VERSION"
  # What was in memory would be gone with another server, while MLflow lists it: `down` ends this choice.
  [[ ! -e $home/bucket-server || $(<"$home/bucket-server") != */moto_server ]] || return 0
  if [[ -x $program ]]; then
    :
  elif command -v versitygw >/dev/null; then
    program=$(command -v versitygw)
  elif ! command -v go >/dev/null; then
    program=$home/service/bin/moto_server
  elif ! make_once "$program" "VersityGW $VERSITYGW_VERSION, with $(go env GOVERSION)" make_versitygw; then
    program=$home/service/bin/moto_server
  fi
  printf '%s' "$program" >"$home/bucket-server"
}

create() {
  install_missing
  make_secrets
  local digest
  digest=$(cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
  make_bucket_server &
  local bucket=$!
  # The service first: its uv makes the other.
  make_once "$home/service/.ready-$digest" "an environment for prinz-enricher" make_service
  make_once "$home/mlflow-$MLFLOW_VERSION/.ready-$digest" "an environment for MLflow $MLFLOW_VERSION" make_mlflow
  wait "$bucket"
}

without_docker() {
  [[ $command != up ]] || create
  if [[ ! -x $home/service/bin/python ]]; then
    echo "nothing was created here"
    exit 0
  fi
  POSTGRES_PROGRAMS=$(postgres_programs) NGINX_PROGRAM=$(nginx_program) \
    exec "$home/service/bin/python" -m deploy.processes "$command" "${rest[@]}"
}

if [[ $docker == yes ]]; then with_docker; else without_docker; fi
