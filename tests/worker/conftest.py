"""Saving models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.worker.saved_model import Save, Saved


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a model with a flavour of MLflow and load it."""

    def save_and_load(flavour: str, model: Any, **options: Any) -> Saved:
        import mlflow

        options.setdefault("pip_requirements", ["mlflow"])
        module = getattr(mlflow, flavour)
        argument = "python_model" if flavour == "pyfunc" else "sk_model"
        module.save_model(path=tmp_path / "model", **{argument: model}, **options)
        return Saved(tmp_path / "model")

    return save_and_load
