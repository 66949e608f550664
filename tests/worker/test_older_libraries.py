"""What the libraries in a model's own environment may lack: MLflow from 2.9, Arrow from 12."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import ElasticNet

import prinz_enricher
from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.signature import input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel
from prinz_enricher.worker.model_inputs import InputBuilder

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

FRAME = pd.DataFrame(np.random.default_rng(3).normal(size=(30, 3)), columns=list("abc"))


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """A model that is loaded with what an older MLflow has."""
    import mlflow
    import yaml
    from mlflow.models import infer_signature

    model = ElasticNet().fit(FRAME, FRAME.sum(axis=1))
    signature = infer_signature(FRAME, pd.Series(model.predict(FRAME)))
    path = tmp_path / "model"
    mlflow.sklearn.save_model(
        model, path, signature=signature, input_example=FRAME.head(2), pip_requirements=["mlflow"]
    )
    written = read_signature(yaml.safe_load((path / "MLmodel").read_text()))
    load = mlflow.pyfunc.load_model
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda folder: _older(load(folder)))
    return LoadedModel(str(path), input_schema(written), output_schema(written))


def _older(pyfunc: Any) -> SimpleNamespace:
    """Give what MLflow 2.9 has of a model: no type hints, and no example at hand."""
    of = pyfunc.metadata
    metadata = SimpleNamespace(
        signature=of.signature,
        flavors=of.flavors,
        saved_input_example_info=of.saved_input_example_info,
        load_input_example=of.load_input_example,
    )
    return SimpleNamespace(predict=pyfunc.predict, metadata=metadata, _model_impl=pyfunc._model_impl)


def test_a_model_is_loaded_by_a_mlflow_without_type_hints(loaded: LoadedModel) -> None:
    """By a short path, with its example."""
    assert loaded.path == "array", loaded.why
    batch = pa.RecordBatch.from_pandas(FRAME.head(4), preserve_index=False)
    assert loaded.score(batch, None).num_rows == 4


def test_rows_that_an_older_mlflow_refuses_are_the_caller_s_fault(loaded: LoadedModel) -> None:
    """Its exception does not say that it comes of the schema enforcement."""
    from mlflow.exceptions import MlflowException
    from mlflow.models.utils import _enforce_schema
    from mlflow.types import ColSpec, Schema

    of_text = Schema([ColSpec("string", "a")])
    loaded._predict = lambda data, _: _enforce_schema(data, of_text)
    batch = pa.RecordBatch.from_pandas(FRAME.head(1), preserve_index=False)
    with pytest.raises(InvalidRows):
        loaded.score(batch, None)

    def fails(*_: object) -> None:
        raise MlflowException("of the model itself")

    loaded._predict = fails
    with pytest.raises(MlflowException, match="of the model"):
        loaded.score(batch, None)


def test_lists_of_a_fixed_size_are_nested_though_older_arrows_say_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a tensor would be an array of lists."""
    nested = pa.types.is_nested
    monkeypatch.setattr(pa.types, "is_nested", lambda kind: nested(kind) and not pa.types.is_fixed_size_list(kind))
    written = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]
    schema = input_schema(
        read_signature({"signature": {"inputs": json.dumps(written), "outputs": None, "params": None}})
    )
    batch = pa.RecordBatch.from_arrays([pa.array([[1.0, 2.0]], schema.field(0).type)], schema=schema)
    assert InputBuilder(schema, None).build(batch).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "path",
    [path for folder in ("ipc", "worker") for path in sorted(Path(prinz_enricher.__path__[0], folder).glob("*.py"))],
    ids=lambda one: f"{one.parent.name}/{one.name}",
)
def test_the_worker_is_written_in_python_3_10(path: Path) -> None:
    """It has no syntax that came later."""
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_the_package_imports_nothing_by_itself() -> None:
    """A worker sets what Arrow reads at its import first."""
    code = "import sys, prinz_enricher.worker; print([one for one in ('pyarrow', 'mlflow') if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
