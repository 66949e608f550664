"""Models that are given the bare array of their frame, and those that must not be."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from prinz_enricher.signature import input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

RANDOM = np.random.default_rng(11)
NAMES = ["alcohol", "pH", "density", "sulphates"]
FRAME = pd.DataFrame(RANDOM.normal(5, 2, (80, 4)), columns=NAMES)
ARRAY = FRAME.to_numpy()
TARGET = FRAME.sum(axis=1) + RANDOM.normal(size=80)
CLASSES = TARGET.gt(TARGET.median()).astype(int)

PLAIN: dict[str, Callable[[], Any]] = {
    "linear": lambda: ElasticNet(alpha=0.1),
    "forest": lambda: RandomForestRegressor(n_estimators=5, random_state=1),
    "pipeline": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "boosting": lambda: HistGradientBoostingRegressor(max_iter=5),
    "boosting classifier": lambda: HistGradientBoostingClassifier(max_iter=5),
    "imputed": lambda: make_pipeline(SimpleImputer(add_indicator=True), StandardScaler(), LinearRegression()),
    "in place": lambda: make_pipeline(StandardScaler(copy=False), LinearRegression()),
    "passthrough": lambda: make_pipeline("passthrough", LinearRegression()),
    "frames inside": lambda: make_pipeline(StandardScaler().set_output(transform="pandas"), LinearRegression()),
    "nearest": lambda: KNeighborsRegressor(3, weights="distance"),
    "voting": lambda: VotingRegressor([("a", LinearRegression()), ("b", DecisionTreeRegressor(max_depth=3))]),
    "stacking": lambda: StackingRegressor([("a", LinearRegression())], ElasticNet(), cv=3),
    "search": lambda: GridSearchCV(ElasticNet(), {"alpha": [0.1, 1.0]}, cv=3),
}
CLASSIFIERS = ("pipeline", "boosting classifier")


@pytest.fixture(autouse=True)
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the code of this file in a module that pickle finds; one thread is enough for so few rows."""
    module = types.ModuleType("somebody_s_code")
    for kind in (Own, OwnStep, OwnMemory):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    for function in (own_kernel, half, plus_one):
        monkeypatch.setattr(function, "__module__", module.__name__)
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with threadpool_limits(1):
        yield


class Own(LinearRegression):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator of somebody's own, on top of one of scikit-learn's."""


class OwnStep:
    """A step that is no estimator: it has no parameters to be asked for."""

    def fit(self, data: Any, target: Any = None) -> OwnStep:
        """Learn nothing."""
        return self

    def transform(self, data: Any) -> Any:
        """Change nothing."""
        return data


class OwnMemory(BaseEstimator):  # type: ignore[misc]  # as above
    """A cache of somebody's own."""

    def cache(self, function: Any, **_options: Any) -> Any:
        """Keep nothing."""
        return function


def own_kernel(one: Any, other: Any) -> Any:
    """Multiply."""
    return one @ other.T


def half(value: Any) -> Any:
    """Give the half."""
    return value / 2


def plus_one(value: Any) -> Any:
    """Give the next."""
    return value + 1


class Saved:
    """A saved model, loaded both ways."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        signature = read_signature(yaml.safe_load((folder / "MLmodel").read_text()))
        self.inputs = input_schema(signature)
        self.loaded = LoadedModel(str(folder), self.inputs, output_schema(signature))
        self.pyfunc = mlflow.pyfunc.load_model(str(folder))

    def batch(self, values: Any) -> pa.RecordBatch:
        """Make a batch of an array of shape (rows, inputs)."""
        columns = [
            pa.array(np.ascontiguousarray(values[:, place]), type) for place, type in enumerate(self.inputs.types)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.inputs)

    def frame(self, values: Any) -> Any:
        """Make the frame that MLflow is to be given."""
        names = self.inputs.names if self.pyfunc.metadata.signature.inputs.has_input_names() else None
        return pd.DataFrame(np.array(values), columns=names)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Saved]:
    """Save a scikit-learn model with MLflow, and load it."""

    def save_and_load(model: Any, inputs: Any, **options: Any) -> Saved:
        import mlflow
        from mlflow.models import ModelSignature, infer_signature
        from mlflow.types import ColSpec, Schema

        signature = options.pop("signature", None)
        if signature is None:
            signature = infer_signature(inputs, pd.Series(model.predict(inputs)))
            if not isinstance(inputs, pd.DataFrame):
                # Columns without names, and not a tensor.
                kind = "float" if inputs.dtype == np.float32 else "double"
                signature = ModelSignature(Schema([ColSpec(kind)] * inputs.shape[1]), signature.outputs)
        mlflow.sklearn.save_model(
            model,
            tmp_path / "model",
            signature=signature,
            pip_requirements=["mlflow"],
            serialization_format="cloudpickle",
            **options,
        )
        return Saved(tmp_path / "model")

    return save_and_load


def outcome_of(score: Callable[[], Any]) -> Any:
    """Give what a model answers, by its bits, or the kind of what it raises."""
    try:
        answer = np.asarray(score())
    except Exception as exc:  # noqa: BLE001 - a model raises what it likes
        return type(exc)
    return answer.dtype, answer.tobytes()


def some_rows(rows: int, seed: int, dtype: Any) -> Any:
    """Make rows with all that is special among them."""
    random = np.random.default_rng(seed)
    values = random.normal(5, 3, (rows, len(NAMES)))
    special = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e300, -1e-300]
    for place in range(random.integers(0, 4)):
        values[random.integers(rows), random.integers(len(NAMES))] = special[(seed + place) % len(special)]
    with np.errstate(over="ignore"):
        return values.astype(dtype)


@pytest.mark.parametrize(
    ("named", "dtype"),
    [(True, np.float64), (False, np.float32)],
    ids=["doubles with names", "floats without names"],
)
@pytest.mark.parametrize("name", PLAIN)
def test_scikit_learn_s_own_get_the_array_and_answer_the_same_bits(
    save: Callable[..., Saved], capfd: pytest.CaptureFixture[str], name: str, named: bool, dtype: Any
) -> None:
    """On rows with NaN and infinities as well: what MLflow gives, or the same exception; and no warning is printed."""
    # Its own copy: what is scaled in place changes what it was fitted with.
    inputs = (FRAME if named else ARRAY).copy().astype(dtype)
    model = PLAIN[name]().fit(inputs, CLASSES if name in CLASSIFIERS else TARGET)
    saved = save(model, inputs)
    assert saved.loaded.path == "array", saved.loaded.why
    assert saved.loaded.takes_array is named, "of doubles alone"
    given = [some_rows(1 + seed % 5, seed, dtype) for seed in range(15)]
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        # Of overflows numpy tells on either path.
        answers = [outcome_of(partial(saved.loaded.predict, saved.batch(values), None)) for values in given]
    assert [str(one.message) for one in told if "feature name" in str(one.message)] == []
    assert capfd.readouterr().err == ""
    assert answers == [outcome_of(partial(saved.pyfunc.predict, saved.frame(values))) for values in given]


@pytest.mark.parametrize("name", PLAIN)
def test_rows_that_never_were_a_batch_are_scored_the_same(save: Callable[..., Saved], name: str) -> None:
    """The same bits as from a batch, or the same exception."""
    model = PLAIN[name]().fit(FRAME.copy(), CLASSES if name in CLASSIFIERS else TARGET)
    saved = save(model, FRAME)
    for seed in range(15):
        values = some_rows(1 + seed % 5, seed, np.float64)
        array = outcome_of(partial(saved.loaded.score_array, np.asfortranarray(values.copy()), None))
        batch = outcome_of(partial(saved.loaded.score, saved.batch(values), None))
        assert array == batch


def test_the_worker_s_own_filter_silences_the_comparison_of_names(save: Callable[..., Saved]) -> None:
    """A model that was fitted with names warns of none of its calls, once it is loaded."""
    saved = save(PLAIN["linear"]().fit(FRAME, TARGET), FRAME)
    assert saved.loaded.path == "array"
    with warnings.catch_warnings(record=True) as told:
        # The filter that loading has set is before this one.
        warnings.filterwarnings("always", append=True)
        saved.loaded.predict(saved.batch(ARRAY), None)
    assert told == []


def test_one_column_is_an_array_of_one_column(save: Callable[..., Saved]) -> None:
    """Whatever the number of rows."""
    frame = FRAME[["pH"]]
    saved = save(make_pipeline(StandardScaler(), LinearRegression()).fit(frame, TARGET), frame)
    assert saved.loaded.path == "array", saved.loaded.why
    for rows in (1, 2, 80):
        given = frame.head(rows)
        assert (
            saved.loaded.predict(saved.batch(given.to_numpy()), None).tobytes() == saved.pyfunc.predict(given).tobytes()
        )


def test_a_null_of_an_optional_column_is_nan(save: Callable[..., Saved]) -> None:
    """As in a frame; and a column that is left out is refused as there."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        Schema([ColSpec("double", name, required=name != "pH") for name in NAMES]), Schema([ColSpec("double")])
    )
    saved = save(HistGradientBoostingRegressor(max_iter=5).fit(FRAME, TARGET), FRAME, signature=signature)
    assert saved.loaded.path == "array", saved.loaded.why
    values = ARRAY[:3].copy()
    values[1, 1] = np.nan
    batch = saved.batch(values)
    nulls = batch.set_column(1, saved.inputs.field(1), pa.array([values[0, 1], None, values[2, 1]]))
    assert saved.loaded.predict(nulls, None).tobytes() == saved.pyfunc.predict(saved.frame(values)).tobytes()
    with pytest.raises(ValueError, match="features"):
        saved.loaded.predict(batch.drop_columns(["pH"]), None)


def patched() -> Any:
    """Give an estimator whose predictions are those of a function that was hung on it."""
    model = LinearRegression().fit(FRAME, TARGET)
    model.predict = own_mean
    return model


def own_mean(data: Any) -> Any:
    """Give the mean of each row."""
    return np.asarray(data).mean(axis=1)


def kept() -> Any:
    """Give a search that keeps somebody's own estimator, of which none of its parameters tells."""
    model = GridSearchCV(LinearRegression(), {"fit_intercept": [True]}, cv=3).fit(FRAME, TARGET)
    model.best_estimator_ = make_pipeline(StandardScaler(), Own()).fit(FRAME, TARGET)
    return model


OTHERS: dict[str, Callable[[], Any]] = {
    "column transformer": lambda: make_pipeline(
        make_column_transformer((StandardScaler(), ["pH"]), remainder="passthrough"), LinearRegression()
    ).fit(FRAME, TARGET),
    "function transformer": lambda: make_pipeline(FunctionTransformer(), LinearRegression()).fit(FRAME, TARGET),
    "own class": lambda: Own().fit(FRAME, TARGET),
    "own step": lambda: make_pipeline(OwnStep(), LinearRegression()).fit(FRAME, TARGET),
    "own last step": lambda: make_pipeline(StandardScaler(), Own()).fit(FRAME, TARGET),
    "own in a pipeline in a pipeline": lambda: make_pipeline(
        make_pipeline(StandardScaler(), OwnStep(), StandardScaler()), LinearRegression()
    ).fit(FRAME, TARGET),
    "own kernel": lambda: SVR(kernel=own_kernel).fit(FRAME, TARGET),
    "scikit-learn's kernel as a function": lambda: SVR(kernel=rbf_kernel).fit(FRAME, TARGET),
    "own weights": lambda: KNeighborsRegressor(3, weights=half).fit(FRAME, TARGET),
    "own in a vote": lambda: VotingRegressor([("a", LinearRegression()), ("b", Own())]).fit(FRAME, TARGET),
    "own in a pipeline in a vote": lambda: VotingRegressor(
        [("a", LinearRegression()), ("b", make_pipeline(StandardScaler(), Own()))]
    ).fit(FRAME, TARGET),
    "own below a stack": lambda: StackingRegressor([("a", Own())], LinearRegression(), cv=3).fit(FRAME, TARGET),
    "own on top of a stack": lambda: StackingRegressor([("a", LinearRegression())], Own(), cv=3).fit(FRAME, TARGET),
    "own found by a search": lambda: GridSearchCV(
        make_pipeline(StandardScaler(), LinearRegression()), {"linearregression": [Own()]}, cv=3
    ).fit(FRAME, TARGET),
    "own kept by a search": kept,
    "own searched": lambda: GridSearchCV(Own(), {"fit_intercept": [True]}, cv=3).fit(FRAME, TARGET),
    "own memory": lambda: make_pipeline(StandardScaler(), LinearRegression(), memory=OwnMemory()).fit(FRAME, TARGET),
    "passthrough and own": lambda: make_pipeline("passthrough", Own()).fit(FRAME, TARGET),
    "functions of the target": lambda: TransformedTargetRegressor(
        LinearRegression(), func=plus_one, inverse_func=half, check_inverse=False
    ).fit(FRAME, TARGET),
    "numpy's functions of the target": lambda: TransformedTargetRegressor(
        LinearRegression(), func=np.exp, inverse_func=np.log, check_inverse=False
    ).fit(FRAME, TARGET / 100),
    "patched": patched,
}


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_runs_the_code_of_others_or_reads_names_gets_the_frame(save: Callable[..., Saved], name: str) -> None:
    """However deep it is inside; it answers as MLflow does."""
    saved = save(OTHERS[name](), FRAME)
    assert saved.loaded.path == "short", saved.loaded.why
    assert saved.loaded.predict(saved.batch(ARRAY), None).tobytes() == saved.pyfunc.predict(FRAME).tobytes()


def test_another_function_than_predict_gets_the_frame(save: Callable[..., Saved]) -> None:
    """A classifier that was saved to give probabilities."""
    from mlflow.models import infer_signature

    model = LogisticRegression().fit(FRAME, CLASSES)
    signature = infer_signature(FRAME, model.predict_proba(FRAME))
    saved = save(model, FRAME, signature=signature, pyfunc_predict_fn="predict_proba")
    assert saved.loaded.path == "short", saved.loaded.why


@pytest.mark.parametrize("kind", ["float32", "int64"])
def test_inputs_of_several_types_get_the_frame(save: Callable[..., Saved], kind: str) -> None:
    """An array would have one type for all of them."""
    frame = FRAME.round().astype({"pH": kind})
    saved = save(LinearRegression().fit(frame, TARGET), frame)
    assert saved.loaded.path == "short", saved.loaded.why


def test_whole_numbers_get_the_frame(save: Callable[..., Saved]) -> None:
    """Of which nulls would be floats."""
    frame = FRAME.round().astype("int64")
    saved = save(LinearRegression().fit(frame, TARGET), frame)
    assert saved.loaded.path == "short", saved.loaded.why


@pytest.mark.parametrize("name", ["linear", "passthrough"])
def test_a_signature_in_another_order_than_the_model_gets_no_array(save: Callable[..., Saved], name: str) -> None:
    """An array would give the model one column for another; by names it refuses."""
    from mlflow.models import infer_signature

    model = PLAIN[name]().fit(FRAME, TARGET)
    turned = FRAME[NAMES[::-1]]
    saved = save(model, turned, signature=infer_signature(turned, pd.Series(model.predict(FRAME))))
    assert saved.loaded.path == "full", saved.loaded.why
    with pytest.raises(ValueError, match="feature names"):
        saved.loaded.predict(saved.batch(ARRAY), None)


def test_a_python_model_around_an_estimator_gets_the_frame(tmp_path: Path) -> None:
    """What it does with the names is its own."""
    import mlflow
    from mlflow.models import infer_signature
    from mlflow.pyfunc.model import PythonModel

    class Around(PythonModel):
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - hints would be the signature
            return model_input["pH"].to_numpy()

    Around.__module__ = "__main__"
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=Around(),
        signature=infer_signature(FRAME, FRAME["pH"]),
        pip_requirements=["mlflow"],
    )
    assert Saved(tmp_path / "model").loaded.path == "short"
