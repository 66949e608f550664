"""What is set before the libraries of models are imported: they read it at their import."""

from __future__ import annotations

import os


def prepare_imports() -> None:
    """Have MLflow tell nobody what it is used for, and Arrow start no thread of its own.

    A thread that runs before the worker is confined would stay outside.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")
