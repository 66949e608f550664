"""What is set before the libraries of models are imported: they read it at their import."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def prepare_imports() -> None:
    """Have MLflow tell nobody what it is used for, and no allocator of Arrow or Polars start a thread of its own.

    A thread that runs before the worker is confined would stay outside.
    """
    if not getattr(sys.flags, "safe_path", False) and sys.path[:1] in ([""], [str(Path.cwd())]):
        # Python 3.10 knows no -P: the working directory is no place for modules.
        del sys.path[0]
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for allocator in ("JE_ARROW_MALLOC_CONF", "_RJEM_MALLOC_CONF"):
        os.environ.setdefault(allocator, "background_thread:false")
