"""Models that onnxruntime computes in the place of scikit-learn, and those that it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from prinz_enricher.signature import input_schema, output_schema, read_signature
from prinz_enricher.worker import acceleration, onnx_trees
from prinz_enricher.worker.loaded_model import LoadedModel

# MLflow and scikit-learn warn of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

RANDOM = np.random.default_rng(24)
NAMES = ["a", "b", "c d", "e"]
ROWS = 1_000
NUMBERS = pd.DataFrame(RANDOM.normal(5, 20, (ROWS, 4)), columns=NAMES)
TARGET = (NUMBERS["a"] * 2 + NUMBERS["b"] ** 2 + RANDOM.normal(size=ROWS)).to_numpy()
CLASSES = np.digitize(TARGET, [0.0, 300.0])
TEXTS = np.array(["low", "middle", "high"])[CLASSES]
MIXED = NUMBERS.assign(
    city=RANDOM.choice(["Gdańsk", "Łódź", "Kraków"], ROWS), count=RANDOM.integers(0, 50, ROWS), e=NUMBERS["e"]
)


def columns(last: Any, unknown: str = "ignore") -> Any:
    """Return a pipeline over numbers and texts."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    parts = [("numbers", numbers, NAMES), ("city", OneHotEncoder(handle_unknown=unknown), ["city"])]
    return make_pipeline(ColumnTransformer([*parts, ("count", MinMaxScaler(), ["count"])]), last)


FASTER: dict[str, tuple[Callable[[], Any], pd.DataFrame, Any]] = {
    "linear": (ElasticNet, NUMBERS, TARGET),
    "ridge": (lambda: make_pipeline(MinMaxScaler(), Ridge()), NUMBERS, TARGET),
    "network": (lambda: make_pipeline(StandardScaler(), MLPRegressor(max_iter=30, random_state=1)), NUMBERS, TARGET),
    "logistic": (lambda: make_pipeline(StandardScaler(), LogisticRegression()), NUMBERS, CLASSES),
    "tree": (lambda: DecisionTreeRegressor(random_state=1), NUMBERS, TARGET),
    "one leaf": (lambda: DecisionTreeRegressor(min_samples_leaf=ROWS), NUMBERS, TARGET),
    "classes as floats": (lambda: RandomForestClassifier(5), NUMBERS, CLASSES.astype("float64")),
    "classes as booleans": (LogisticRegression, NUMBERS, CLASSES > 0),
    "tree of classes": (lambda: DecisionTreeClassifier(max_depth=5), NUMBERS, CLASSES),
    "forest": (lambda: RandomForestRegressor(20, random_state=1), NUMBERS, TARGET),
    "scaled forest": (lambda: make_pipeline(StandardScaler(), RandomForestRegressor(10)), NUMBERS, TARGET),
    "forest of classes": (lambda: RandomForestClassifier(15, max_depth=6), NUMBERS, CLASSES),
    "forest of texts": (lambda: ExtraTreesClassifier(10), NUMBERS, TEXTS),
    "extra trees": (lambda: ExtraTreesRegressor(10), NUMBERS, TARGET),
    "boosting": (lambda: GradientBoostingRegressor(n_estimators=30), NUMBERS, TARGET),
    "columns": (lambda: columns(LogisticRegression(max_iter=500)), MIXED, CLASSES),
    "columns and texts": (lambda: columns(RandomForestClassifier(10)), MIXED, TEXTS),
    "short numbers": (lambda: columns(LogisticRegression(max_iter=500)), MIXED.astype({"count": "int32"}), CLASSES),
    "columns and trees": (lambda: columns(GradientBoostingRegressor(n_estimators=20)), MIXED, TARGET),
}

Load = Callable[..., LoadedModel]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Save a fitted model, and load it as a worker does."""
    import mlflow
    from mlflow.models import infer_signature

    folder = tmp_path / "model"

    def load_it(model: Any, data: pd.DataFrame, *, accelerate: bool = True, predict: str = "predict") -> LoadedModel:
        if not folder.exists():
            outputs = getattr(model, predict)(data)
            options: Any = {"serialization_format": "cloudpickle", "pyfunc_predict_fn": predict}
            mlflow.sklearn.save_model(
                model, str(folder), signature=infer_signature(data, outputs), input_example=data[:3], **options
            )
        signature = read_signature(yaml.safe_load((folder / "MLmodel").read_text()))
        return LoadedModel(str(folder), input_schema(signature), output_schema(signature), accelerate=accelerate)

    return load_it


def batch_of(model: LoadedModel, data: pd.DataFrame) -> pa.RecordBatch:
    """Return rows as a worker gets them."""
    # A NaN is a value of a double.
    arrays = [pa.array(data[field.name].tolist(), field.type) for field in model._schema]
    return pa.RecordBatch.from_arrays(arrays, schema=model._schema)


def answers(model: LoadedModel, batch: pa.RecordBatch) -> list[list[Any]]:
    """Return the scores of a batch, column by column."""
    return [column.to_pylist() for column in model.score(batch, None).columns]


def assert_same(one: list[list[Any]], other: list[list[Any]]) -> None:
    """Compare scores: doubles as far as they are promised, others exactly."""
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        if isinstance(left[0], float | list):
            np.testing.assert_allclose(left, right, rtol=acceleration.TOLERANCE, atol=0.0)
        else:
            assert left == right


@pytest.mark.parametrize("name", FASTER)
def test_same_answers(load: Load, name: str) -> None:
    """On rows of the training and others, alone and together, near every split and far from any."""
    make, data, target = FASTER[name]
    model = make().fit(data, target)
    fast, own = load(model, data), load(model, data, accelerate=False)
    fast.warm()
    assert fast.path == "accelerated", fast.acceleration
    assert fast.acceleration.startswith("accelerated by onnxruntime, proven on ")
    assert fast.sharing.shared, fast.sharing.why
    others = data.sample(ROWS, random_state=3).reset_index(drop=True)
    others[NAMES] = others[NAMES] * RANDOM.choice([-1e6, -1.0, 1e-9, 0.37, 1.0, 40.0], (ROWS, 4))
    for rows in (data, others):
        batch = batch_of(fast, rows)
        assert_same(answers(fast, batch), answers(own, batch))
    batch = batch_of(fast, data[:20])
    alone = [answers(fast, batch.slice(place, 1)) for place in range(20)]
    assert_same([[value for row in alone for value in row[0]]], answers(own, batch)[:1])


def test_an_example_with_a_gap(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated rows and those at splits have none, and so are part of the proof."""
    data = MIXED.assign(a=[np.nan, *MIXED["a"][1:]])
    model = columns(RandomForestClassifier(10, random_state=1)).fit(data, CLASSES)
    fast = load(model, data)
    assert fast.path == "accelerated", fast.acceleration
    assert int(fast.acceleration.split()[-2]) > acceleration._ROWS + 50
    # So is a graph that is wrong.
    shares = onnx_trees._shares
    monkeypatch.setattr(onnx_trees, "_shares", lambda values: shares(values) * 1.001)
    assert load(model, data).acceleration == "not accelerated: it gives other probabilities"


def test_array_of_doubles(load: Load) -> None:
    """Rows that come as an array are scored as one, in any memory order."""
    model = RandomForestRegressor(5).fit(NUMBERS, TARGET)
    fast = load(model, NUMBERS)
    fast.warm()
    assert fast.takes_array
    rows = NUMBERS.to_numpy()[:50]
    for given in (np.ascontiguousarray(rows), np.asfortranarray(rows)):
        np.testing.assert_allclose(fast.score_array(given, None), model.predict(NUMBERS[:50]), rtol=1e-12)


def test_probabilities(load: Load) -> None:
    """A model that is asked for probabilities gives them."""
    model = columns(LogisticRegression(max_iter=500)).fit(MIXED, CLASSES)
    fast = load(model, MIXED, predict="predict_proba")
    own = load(model, MIXED, accelerate=False)
    assert fast.path == "accelerated", fast.acceleration
    batch = batch_of(fast, MIXED[:100])
    assert_same(answers(fast, batch), answers(own, batch))
    assert answers(fast, batch)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_rows_that_scikit_learn_refuses_or_fills(load: Load, value: float) -> None:
    """They are scikit-learn's: what it raises is raised, and what it fills in is filled in."""
    refusing = RandomForestClassifier(5).fit(NUMBERS, CLASSES) if value == 1e300 else Ridge().fit(NUMBERS, TARGET)
    gone = NUMBERS[:5].assign(b=[1.0, 2.0, value, 3.0, 4.0])
    fast = load(refusing, NUMBERS)
    assert fast.path == "accelerated"
    with pytest.raises(ValueError, match=r"NaN|infinity|too large"):
        fast.score(batch_of(fast, gone), None)


def test_gaps_that_are_filled(load: Load) -> None:
    """A pipeline that imputes, or takes texts that are missing, gives its own answers to rows with gaps."""
    model = columns(LogisticRegression(max_iter=500)).fit(MIXED, CLASSES)
    fast, own = load(model, MIXED), load(model, MIXED, accelerate=False)
    gaps = MIXED[:6].assign(a=[np.nan, 1.0, np.nan, 2.0, 3.0, 4.0])
    for batch in (batch_of(fast, gaps), batch_of(fast, gaps[1:2])):
        assert_same(answers(fast, batch), answers(own, batch))


class Derived(ElasticNet):  # type: ignore[misc]  # it has no types
    """A class of somebody's own."""

    def predict(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        """Add one."""
        return super().predict(X) + 1.0


class Other(BaseEstimator):  # type: ignore[misc]  # it has no types
    """An estimator of somebody's own."""

    def fit(self, X: Any, y: Any) -> Other:  # noqa: N803 - scikit-learn's name
        """Learn nothing."""
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803 - scikit-learn's name
        """Answer with a column."""
        return np.asarray(X)[:, 0]


class Fixed:
    """Fits an estimator to a target of its own."""

    def __init__(self, model: Any, target: Any) -> None:
        self._model, self._target = model, target

    def fit(self, data: pd.DataFrame, _: Any) -> Any:
        """Return the fitted estimator."""
        return self._model.fit(data, self._target)


@pytest.mark.parametrize(
    ("make", "data", "why"),
    [
        (Derived, NUMBERS, "Derived is not converted"),
        (Other, NUMBERS, "Other is not converted"),
        (HistGradientBoostingRegressor, NUMBERS, "HistGradientBoostingRegressor is not converted"),
        (
            lambda: Fixed(RandomForestClassifier(3), np.column_stack([CLASSES, CLASSES])),
            NUMBERS,
            "its classes are neither whole numbers nor texts",
        ),
        (Ridge, NUMBERS.astype("float32"), "columns of the Arrow type float are not converted"),
        (lambda: columns(LinearRegression(), unknown="error"), MIXED, "raises ValueError on generated rows"),
    ],
)
def test_models_that_stay_as_they_are(load: Load, make: Callable[[], Any], data: pd.DataFrame, why: str) -> None:
    """What is not converted, or would answer where the model refuses, is scored as ever, and says why."""
    model = make().fit(data, TARGET)
    kept = load(model, data)
    kept.warm()
    assert kept.path != "accelerated"
    assert kept.acceleration == f"not accelerated: {'the model ' if why.startswith('raises') else ''}{why}"
    assert_same(answers(kept, batch_of(kept, data)), [model.predict(data).tolist()])


def test_code_that_was_hung_on_an_estimator() -> None:
    """It is not converted: its own method is not what is called."""
    model = ElasticNet().fit(NUMBERS, TARGET)
    model.predict = lambda rows: rows
    schema = pa.schema([pa.field(name, pa.float64(), nullable=False) for name in NAMES])
    with pytest.raises(acceleration.NotAccelerated, match="ElasticNet is not converted"):
        acceleration.Graph(model, "predict", schema, NAMES, matrix=True)


def test_single_precision_is_found_out(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that compares doubles where scikit-learn compares 32-bit floats differs at splits: it is not used."""
    add = onnx_trees._add

    def without_rounding(
        scope: Any, container: Any, kind: str, inputs: list[str], output: str = "", **more: Any
    ) -> str:
        if kind == "Cast" and more["to"] == 1:
            return add(scope, container, "Identity", inputs, output)
        return add(scope, container, kind, inputs, output, **more)

    monkeypatch.setattr(onnx_trees, "_add", without_rounding)
    model = make_pipeline(StandardScaler(), RandomForestRegressor(20, random_state=1)).fit(NUMBERS, TARGET)
    kept = load(model, NUMBERS)
    assert kept.acceleration == "not accelerated: it gives other answers"


@pytest.mark.parametrize("package", ["onnxruntime", "skl2onnx"])
def test_what_it_needs_is_not_installed(load: Load, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """The model is scored as ever, and says what is missing."""
    monkeypatch.setitem(sys.modules, package, None)
    kept = load(Ridge().fit(NUMBERS, TARGET), NUMBERS)
    assert kept.acceleration == f"not accelerated: {package} is not installed where it runs"
    assert answers(kept, batch_of(kept, NUMBERS[:2]))


def test_other_flavours(tmp_path: Path) -> None:
    """A model of another flavour stays as it is."""
    import mlflow
    from mlflow.models import infer_signature

    def double(model_input):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - hints would be the signature
        return model_input * 2

    signature = infer_signature(NUMBERS[:3], NUMBERS[:3] * 2)
    mlflow.pyfunc.save_model(str(tmp_path / "m"), python_model=double, signature=signature, input_example=NUMBERS[:3])
    found = read_signature(yaml.safe_load((tmp_path / "m" / "MLmodel").read_text()))
    kept = LoadedModel(str(tmp_path / "m"), input_schema(found), output_schema(found), accelerate=True)
    assert kept.acceleration == "not accelerated: it is not a model of scikit-learn"


@pytest.mark.slow
def test_every_label_of_many_rows(load: Load) -> None:
    """The sample model of frauds gives 100,000 payments the labels that it gives them without acceleration."""
    from samples import fraud

    data = fraud.make_fraud(100_000, seed=5)[list(fraud.COLUMNS)]
    model = fraud.train_fraud(fraud.make_fraud())
    fast, own = load(model, data[:1_000]), load(model, data[:1_000], accelerate=False)
    fast.warm()
    assert fast.path == "accelerated"
    batch = batch_of(fast, data)
    found = answers(fast, batch)
    assert found == answers(own, batch)
    assert len({*found[0]}) == 2
