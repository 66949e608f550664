"""Which environment variables a worker process gets: a model is someone's code, and gets no secret it does not need."""

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
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)
"""What any program needs to start and to reach the network."""

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
"""What the download of a model needs: as long as the worker does it itself, it gets these."""


ACCESS = ("MLFLOW_TRACKING_*", "DATABRICKS_*")
"""Those of them that say how the registry is reached, and with which credentials."""


def worker_environment(
    environment: Mapping[str, str],
    folder: str,
    extra: Iterable[str] = (),
    access: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Choose the environment of a worker process.

    Args:
        environment: The environment of this process.
        folder: The worker's private folder; its temporary files go there.
        extra: More names, or patterns of names, that are passed on.
        access: How the worker reaches its registry, in place of what this process has for some registry or other;
            None to pass that on.
    """
    patterns = (*SYSTEM, *COMPUTE, *REGISTRY, *extra)
    chosen = {name: value for name, value in environment.items() if any(fnmatchcase(name, one) for one in patterns)}
    # The worker says itself which registry it talks to.
    chosen.pop("MLFLOW_TRACKING_URI", None)
    home = Path(__file__).resolve().parents[2]
    if str(home) not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")) and str(home) in map(
        str, map(Path, sys.path)
    ):
        # This package runs from its sources; the worker must find them without the working directory.
        chosen["PYTHONPATH"] = ":".join(filter(None, (str(home), chosen.get("PYTHONPATH"))))
    if access is not None:
        chosen = {name: value for name, value in chosen.items() if not any(fnmatchcase(name, one) for one in ACCESS)}
        chosen |= access
    chosen["TMPDIR"] = folder
    chosen["PYTHONUNBUFFERED"] = "1"
    return chosen
