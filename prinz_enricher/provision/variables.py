"""Which environment variables the processes get: each what it needs, and none another one's secrets."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

SYSTEM = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "LD_LIBRARY_PATH"),
    *("VIRTUAL_ENV", "PYTHONPATH", "PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
"""What any program needs to start."""

PROXIES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
)
"""The way out to the network; their URLs may hold passwords."""

COMPUTE = ("OMP_*", "MKL_*", "OPENBLAS_*", "NUMEXPR_*", "CUDA_*", "NVIDIA_*", "TF_*", "XLA_*", "JAVA_HOME")
"""What the libraries of models read."""

REGISTRY = (
    *(
        "MLFLOW_TRACKING_*",
        "MLFLOW_HTTP_REQUEST_*",
        "MLFLOW_WORKSPACE",
        "MLFLOW_S3_*",
        "MLFLOW_GCS_*",
        "MLFLOW_ALLOW_*",
    ),
    *("MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE", "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"),
    *("AWS_*", "AZURE_STORAGE_*", "GOOGLE_APPLICATION_CREDENTIALS", "DATABRICKS_*"),
)
"""What the download of a model needs."""

ACCESS = ("MLFLOW_TRACKING_*", "DATABRICKS_*")
"""Those of them that say how the registry is reached, and with which credentials."""

INSTALLERS = ("UV_*", "XDG_CACHE_HOME")
"""What uv reads: where packages come from and where they are kept."""

_SERVICE = ("PRINZ_*", "UV_*", "PIP_*")
"""What concerns the service alone, or its installers."""

_HELD_BACK = (*REGISTRY, *PROXIES)
"""What a worker gets only where it is named in full."""

_OF_THIS_INTERPRETER = ("VIRTUAL_ENV", "PYTHONPATH")


def fetch_variables(environment: Mapping[str, str], folder: Path, access: Mapping[str, str] | None) -> dict[str, str]:
    """Choose the environment variables of a process that downloads a model.

    Args:
        environment: The environment of this process.
        folder: Where its temporary files go.
        access: How the registry is reached, in place of what this process has for some registry or other; None to
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

    Args:
        environment: The environment of this process.
        folder: The worker's private folder; its temporary files go there.
        extra: More names, or patterns of names, that are passed on. A pattern gives no credentials of a registry or
            store, and no proxy: they are named in full where a model is to have them. Settings of this service and of
            installers are never passed on.
        code: Where the worker's code is, for an interpreter that is not this one.
    """
    chosen = _chosen(environment, (*SYSTEM, *COMPUTE))
    for pattern in extra:
        given = _chosen(environment, [pattern])
        chosen |= {name: value for name, value in given.items() if name == pattern or not _matches(name, _HELD_BACK)}
    chosen = {name: value for name, value in chosen.items() if not _matches(name, _SERVICE)}
    if code is None:
        chosen = _with_sources(chosen)
    else:
        chosen = {name: value for name, value in chosen.items() if name not in _OF_THIS_INTERPRETER}
        chosen["PYTHONPATH"] = str(code)
    if "PYTHONPYCACHEPREFIX" not in chosen:
        # Bytecode beside a model's sources would be a file more than the model has.
        chosen["PYTHONDONTWRITEBYTECODE"] = "1"
    return chosen | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}


def installer_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Choose the environment variables of uv.

    Args:
        environment: The environment of this process.
    """
    names = ("PATH", "HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR")
    return _chosen(environment, (*names, *PROXIES, *INSTALLERS))


def _chosen(environment: Mapping[str, str], patterns: Iterable[str]) -> dict[str, str]:
    listed = tuple(patterns)
    return {name: value for name, value in environment.items() if _matches(name, listed)}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _with_sources(chosen: dict[str, str]) -> dict[str, str]:
    """Let a process of this interpreter find this package without the working directory, where it runs from sources."""
    home = str(Path(__file__).resolve().parents[2])
    installed = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    if home not in installed and home in map(str, map(Path, sys.path)):
        return chosen | {"PYTHONPATH": ":".join(filter(None, (home, chosen.get("PYTHONPATH"))))}
    return chosen
