"""The dtypes that columns of booleans and integers with nulls come to a model in: the first that it takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from sklearn.tree import DecisionTreeRegressor

from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.signature import input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel
from prinz_enricher.worker.model_inputs import InputBuilder, NullDtypes
from prinz_enricher.worker.trial import made_batch

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

SCHEMA = pa.schema(
    [
        pa.field("x", pa.float64(), nullable=False),
        pa.field("flag", pa.bool_()),
        pa.field("count", pa.int64()),
        pa.field("small", pa.int32()),
        pa.field("sure", pa.bool_(), nullable=False),
    ]
)
ROWS = pa.RecordBatch.from_arrays(
    [
        pa.array([0.5, 1.5, 2.5]),
        pa.array([None, True, False]),
        pa.array([2**53, None, -(2**53)]),
        pa.array([None, None, 7], pa.int32()),
        pa.array([True, False, True]),
    ],
    schema=SCHEMA,
)
OWN = {"flag": "object", "count": "Int64", "small": "Int32"}
"""The dtypes that MLflow's enforcement leaves."""


def takes_all(_: Any) -> None:
    """Be a model that takes any dtype."""


def takes_no_objects(frame: Any) -> None:
    """Be a model that refuses objects, as XGBoost does."""
    if "object" in frame.dtypes.astype(str).tolist():
        raise TypeError


def takes_numpy_alone(frame: Any) -> None:
    """Be a model that knows no dtypes of pandas' own, such as an older LightGBM."""
    takes_no_objects(frame)
    if not all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        raise TypeError


def takes_objects_and_numpy(frame: Any) -> None:
    """Be a model that computes with numpy, and compares booleans with True."""
    if not all(isinstance(dtype, np.dtype) for dtype in frame.dtypes) or frame["flag"].dtype == float:
        raise TypeError


def takes_no_nulls(frame: Any) -> None:
    """Be a model that refuses nulls of any dtype."""
    if frame.isna().to_numpy().any():
        raise ValueError


def chosen(model: Callable[[Any], None], schema: pa.Schema = SCHEMA) -> InputBuilder:
    """Give the builder of a model after the choice."""
    builder = InputBuilder(schema, schema.names)
    sample = made_batch(schema)
    assert sample is not None
    builder.choose_null_dtypes(lambda rows: model(builder.build(rows)), [sample])
    return builder


@pytest.mark.parametrize(
    ("model", "dtypes"),
    [
        (takes_all, OWN),
        (takes_no_objects, {**OWN, "flag": "boolean"}),
        (takes_numpy_alone, {"flag": "float64", "count": "float64", "small": "float64"}),
        (takes_objects_and_numpy, {"flag": "object", "count": "float64", "small": "float64"}),
        (takes_no_nulls, OWN),
    ],
)
def test_columns_with_nulls_have_the_first_dtypes_that_the_model_takes(
    model: Callable[[Any], None], dtypes: dict[str, str]
) -> None:
    """MLflow's own before others, those too where it takes none; no value is another one, and no other column is."""
    frame = chosen(model).build(ROWS)

    assert {name: str(frame[name].dtype) for name in dtypes} == dtypes
    assert str(frame["sure"].dtype) == "bool"
    for name in dtypes:
        held = [None if pd.isna(value) else value for value in frame[name]]
        assert held == ROWS.column(name).to_pylist()


@pytest.mark.parametrize("model", [takes_all, takes_no_objects, takes_numpy_alone, takes_no_nulls])
def test_columns_without_nulls_are_the_same_whatever_was_chosen(model: Callable[[Any], None]) -> None:
    """Each has its plain dtype."""
    frame = chosen(model).build(ROWS.slice(2, 1))

    assert [str(dtype) for dtype in frame.dtypes] == ["float64", "bool", "int64", "int32", "bool"]
    assert frame["count"].tolist() == [-(2**53)]


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63) + 1])
def test_a_whole_number_that_a_double_does_not_hold_is_refused(value: int) -> None:
    """Where the model takes integers with nulls as doubles alone, and there is a null; else it is what it is."""
    schema = pa.schema([pa.field("count", pa.int64())])
    builder = InputBuilder(schema, schema.names)
    builder.null_dtypes = NullDtypes("float64", "float64")
    rows = pa.RecordBatch.from_arrays([pa.array([value, None])], schema=schema)

    with pytest.raises(InvalidRows, match="2\\^53"):
        builder.build(rows)
    assert builder.build(rows.slice(0, 1))["count"].tolist() == [value]


def test_a_choice_is_made_by_rows_that_the_model_takes() -> None:
    """Where the first sample fails with no null in it, or lacks a column, the next one tells."""
    schema = pa.schema([SCHEMA.field("x"), SCHEMA.field("flag")])
    builder = InputBuilder(schema, schema.names)
    good = pa.RecordBatch.from_arrays([pa.array([2.0]), pa.array([True])], schema=schema)
    bad = pa.RecordBatch.from_arrays([pa.array([1.0]), pa.array([True])], schema=schema)

    def predict(rows: pa.RecordBatch) -> None:
        frame = builder.build(rows)
        if frame["x"][0] == 1:
            raise ValueError
        takes_no_objects(frame)

    builder.choose_null_dtypes(predict, [bad])
    assert builder.null_dtypes == NullDtypes()
    builder.choose_null_dtypes(predict, [bad, good.select(["x"]), good])
    assert builder.null_dtypes == NullDtypes("nullable", "nullable")


def test_a_model_without_such_columns_is_not_tried() -> None:
    """Its load takes no longer."""
    schema = pa.schema([SCHEMA.field("x"), SCHEMA.field("sure"), pa.field("text", pa.utf8())])
    tried: list[Any] = []

    chosen(tried.append, schema)

    assert not tried


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedModel]:
    """Save a model with the inputs x, flag and count, and load it as a worker does."""

    def save_and_load(flavour: str, **model: Any) -> LoadedModel:
        import mlflow
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, Schema

        kinds = {"x": "double", "flag": "boolean", "count": "long"}
        inputs = Schema([ColSpec(kind, name, required=name == "x") for name, kind in kinds.items()])
        signature = ModelSignature(inputs, Schema([ColSpec("double")]))
        path = tmp_path / "model"
        getattr(mlflow, flavour).save_model(path=path, signature=signature, pip_requirements=["mlflow"], **model)
        written = read_signature(yaml.safe_load((path / "MLmodel").read_text()))
        return LoadedModel(str(path), input_schema(written), output_schema(written))

    return save_and_load


STRICT = """
import mlflow.models
from mlflow.pyfunc import PythonModel


class Strict(PythonModel):
    def predict(self, context, model_input, params=None):
        if "object" in model_input.dtypes.astype(str).tolist():
            raise TypeError
        return model_input["flag"].isna().to_numpy() + model_input["x"].to_numpy()


mlflow.models.set_model(Strict())
"""


def test_a_model_that_refuses_objects_scores_rows_without_a_boolean(
    load: Callable[..., LoadedModel], tmp_path: Path
) -> None:
    """Loading it finds out, and so no caller is told that the model raised."""
    code = tmp_path / "strict_model.py"
    code.write_text(STRICT)
    loaded = load("pyfunc", python_model=str(code))
    rows = ROWS.select(["x", "flag", "count"])

    assert loaded.path == "short"
    assert loaded.score(rows, None).column(0).to_pylist() == [1.5, 1.5, 2.5]
    assert loaded.score(rows.slice(0, 1), None).column(0).to_pylist() == [1.5]


def test_a_model_of_scikit_learn_takes_nulls_as_what_it_learnt_them_as(load: Callable[..., LoadedModel]) -> None:
    """It learnt from NaN, and gives the answers of NaN."""
    random = np.random.default_rng(5)
    frame = pd.DataFrame({name: random.integers(0, 2, 200).astype(float) for name in ("x", "flag", "count")})
    frame = frame.mask(random.random(frame.shape) < 0.2)
    target = frame["x"].fillna(3) + 10 * frame["flag"].fillna(5) + 100 * frame["count"].fillna(7)
    model = DecisionTreeRegressor(random_state=0).fit(frame, target)
    rows = pa.RecordBatch.from_arrays(
        [pa.array([1.0, 0.0]), pa.array([None, True]), pa.array([1, None])],
        schema=pa.schema([SCHEMA.field("x"), SCHEMA.field("flag"), SCHEMA.field("count")]),
    )
    wanted = model.predict(pd.DataFrame({"x": [1.0, 0.0], "flag": [np.nan, 1.0], "count": [1.0, np.nan]}))

    loaded = load("sklearn", sk_model=model, serialization_format="cloudpickle")

    assert loaded.score(rows, None).column(0).to_pylist() == wanted.tolist()
