"""Which environment variables a process gets: what it needs, and no secret of another one."""

import sys
import sysconfig
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

# What any program needs to start.
SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "LD_LIBRARY_PATH"),
    *("VIRTUAL_ENV", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
# Their URLs may hold passwords.
PROXIES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
# What the libraries of models read.
COMPUTE = ("OMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "CUDA_*", "NVIDIA_*", "TF_*", "XLA_*", "JAVA_HOME")
ACCESS = ("MLFLOW_TRACKING_*", "DATABRICKS_*")  # How the registry is reached, and with which credentials.
# What the download of a model needs.
REGISTRY = (
    *(*ACCESS, "MLFLOW_HTTP_REQUEST_*", "MLFLOW_WORKSPACE", "MLFLOW_S3_*", "MLFLOW_GCS_*", "MLFLOW_ALLOW_*"),
    *("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"),
    *("AWS_*", "AZURE_STORAGE_*", "GOOGLE_APPLICATION_CREDENTIALS"),
)
# What uv needs and reads, such as where packages come from.
INSTALLERS = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "UV_*", "XDG_CACHE_HOME")
# By default OpenBLAS's threads spin for 2^26 cycles, some 25 ms, after a product: between batches a worker would keep
# cores from everybody else. 2^16 are enough for products in a row.
_COMPUTE_DEFAULTS = {"OPENBLAS_THREAD_TIMEOUT": "16"}
_SERVICE = ("PRINZ_*", "UV_*", "PIP_*")  # What concerns the service alone, or its installers.


def fetch_variables(environment: Mapping[str, str], folder: Path, access: Mapping[str, str] | None) -> dict[str, str]:
    """Choose the environment variables of a process that downloads a model, with `folder` for its temporary files.

    `access` says how the registry is reached, in place of what this process has for some registry or other; None to
    pass that on.
    """
    chosen = _chosen(environment, (*SYSTEM, *PROXIES, *REGISTRY))
    # The registry is named to it with the model.
    chosen.pop("MLFLOW_TRACKING_URI", None)
    if access is not None:
        chosen = {name: value for name, value in chosen.items() if not _matches(name, ACCESS)} | dict(access)
    return _with_sources(chosen) | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def worker_variables(
    environment: Mapping[str, str], folder: Path, extra: Iterable[str], *, code: Path | None = None
) -> dict[str, str]:
    """Choose the environment variables of a worker, which runs a model: someone's code, and so without any secret.

    `folder` is for its temporary files, `code` that of its code, for an interpreter that is not this one. A pattern
    among the extra names passes on no credentials of a registry or store, and no proxy: those have to be named in full.
    Settings of this service and of installers are never passed on.
    """
    chosen = _chosen(environment, (*SYSTEM, *COMPUTE))
    for pattern in extra:
        for name, value in _chosen(environment, (pattern,)).items():
            if name == pattern or not _matches(name, (*REGISTRY, *PROXIES)):
                chosen[name] = value
    chosen = {name: value for name, value in chosen.items() if not _matches(name, _SERVICE)}
    if code is None:
        chosen = _with_sources(chosen)
    else:
        chosen.pop("VIRTUAL_ENV", None)
        chosen["PYTHONPATH"] = str(code)
    if "PYTHONPYCACHEPREFIX" not in chosen:
        # Bytecode beside a model's sources would be a file more than the model has.
        chosen["PYTHONDONTWRITEBYTECODE"] = "1"
    return _COMPUTE_DEFAULTS | chosen | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def installer_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose the environment variables of uv."""
    return _chosen(environment, (*INSTALLERS, *PROXIES))


def _chosen(environment: Mapping[str, str], patterns: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if _matches(name, patterns)}


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _with_sources(chosen: dict[str, str]) -> dict[str, str]:
    """Let a process of this interpreter find this package without the working directory, where it runs from sources."""
    home = str(Path(__file__).resolve().parents[2])
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    if home not in installed and home in map(str, map(Path, sys.path)):
        return chosen | {"PYTHONPATH": ":".join(filter(None, (home, chosen.get("PYTHONPATH"))))}
    return chosen
