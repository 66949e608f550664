# syntax=docker/dockerfile:1
# Two images: `enricher` is the service, `mlflow` what MLflow's server, the training of the sample models and the model
# servers of docker-compose.yaml share. `docker build --target enricher .` makes the first alone, `--target enricher-rust`
# the same with the Rust front.

FROM python:3.12-slim-bookworm AS build
# The environments are copied into other images, where links to a cache would lead nowhere.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY constraints.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action ignore --constraint constraints.txt maturin uv


FROM build AS enricher-build
COPY pyproject.toml ./
# Apart from the code: as long as these stay as they are, a change of the code installs only the code.
RUN --mount=type=cache,target=/root/.cache/uv \
    uv venv --python /usr/local/bin/python /opt/prinz-enricher && \
    uv pip install --python /opt/prinz-enricher --constraint constraints.txt --requirements pyproject.toml --extra s3 --extra otel
COPY LICENSE README.md ./
COPY prinz_enricher prinz_enricher
COPY samples samples
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --python /opt/prinz-enricher --build-constraints constraints.txt --no-deps .


FROM build AS mlflow-build
ARG MLFLOW_VERSION
COPY deploy/mlflow/requirements.txt ./
# Another MLflow than the tests run with may want other versions of everything.
RUN --mount=type=cache,target=/root/.cache/uv \
    set -- "mlflow==${MLFLOW_VERSION:?is in .env}" && \
    if grep --quiet --line-regexp --fixed-strings "$1" constraints.txt; then \
      set -- "$@" --constraint constraints.txt; \
    fi && \
    uv venv --python /usr/local/bin/python /opt/mlflow && \
    uv pip install --python /opt/mlflow --requirements requirements.txt "$@"


FROM python:3.12-slim-bookworm AS mlflow
LABEL org.opencontainers.image.title="prinz-enricher: MLflow" \
      org.opencontainers.image.description="MLflow with the sample models of prinz-enricher, for its development environment" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim-bookworm"
RUN useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin mlflow
COPY --from=mlflow-build /opt/mlflow /opt/mlflow
WORKDIR /opt/environment
COPY deploy/mlflow deploy/mlflow
COPY deploy/models deploy/models
COPY samples samples
# There is no git here for MLflow to note a commit with.
ENV PATH=/opt/mlflow/bin:$PATH PYTHONUNBUFFERED=1 MLFLOW_DISABLE_TELEMETRY=true GIT_PYTHON_REFRESH=quiet
USER 10001:10001
EXPOSE 5000
CMD ["mlflow", "--help"]


FROM python:3.12-slim-bookworm AS enricher
LABEL org.opencontainers.image.title="prinz-enricher" \
      org.opencontainers.image.description="Discovers, describes and scores the models of an MLflow registry over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.12-slim-bookworm"
# Models and their environments are kept in the home of the one who runs the service.
RUN useradd --uid 10001 --user-group --home-dir /var/lib/prinz-enricher --create-home --shell /usr/sbin/nologin prinz
COPY --from=enricher-build /opt/prinz-enricher /opt/prinz-enricher
# Settings to replace; the registry comes from PRINZ_REGISTRY__URL.
COPY <<TOML /etc/prinz-enricher/prinz.toml
[server]
host = "0.0.0.0"
insecure = true  # Without certificates: others can read what is sent.

[http]
host = "0.0.0.0"
port = 9090
TOML

ENV PATH=/opt/prinz-enricher/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/prinz-enricher
VOLUME /var/lib/prinz-enricher
EXPOSE 8080 50051 9090
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9090/readyz', timeout=4)"]
ENTRYPOINT ["prinz-enricher"]
CMD ["serve", "--config", "/etc/prinz-enricher/prinz.toml"]


FROM rust:1.95-slim-bookworm AS front-build
# A program; what it builds goes with each Python from 3.11 on, and needs none to be built.
COPY --from=build /usr/local/bin/maturin /usr/local/bin/maturin
WORKDIR /build
COPY front front
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/front/target \
    maturin build --release --manifest-path front/Cargo.toml --out /dist


FROM enricher-build AS enricher-rust-build
RUN --mount=from=front-build,source=/dist,target=/dist \
    uv pip install --no-cache --python /opt/prinz-enricher --no-deps /dist/*.whl


FROM enricher AS enricher-rust
COPY --from=enricher-rust-build /opt/prinz-enricher /opt/prinz-enricher
