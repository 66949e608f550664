"""Models of several flavours, loaded and scored as a worker does, against MLflow's own answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml
from sklearn.compose import make_column_transformer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from prinz_enricher.signature import Signature, input_schema, output_schema, read_signature
from prinz_enricher.signature.mlflow_json import with_outputs
from prinz_enricher.worker.batching import Sharing
from prinz_enricher.worker.faults import InvalidRows, OutputDiffers
from prinz_enricher.worker.forms import Form
from prinz_enricher.worker.model import LoadedModel
from prinz_enricher.worker.trial import OutputsDiffer, UnfitModel

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")

Save = Callable[..., "Saved"]


class Saved:
    """A saved model, loaded both ways."""

    def __init__(self, folder: Path) -> None:
        import mlflow

        written = yaml.safe_load((folder / "MLmodel").read_text())
        self.signature: Signature = read_signature(written)
        self.inputs = input_schema(self.signature)
        self.loaded = LoadedModel(str(folder), self.inputs, output_schema(self.signature))
        self.pyfunc = mlflow.pyfunc.load_model(str(folder))

    def batch(self, *columns: list[Any]) -> pa.RecordBatch:
        """Make a batch by the model's inputs."""
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self.inputs, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.inputs)

    def score(self, *columns: list[Any], params: dict[str, Any] | None = None) -> list[Any]:
        """Score and give the first output."""
        return list(self.loaded.score(self.batch(*columns), params).column(0).to_pylist())


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


def signature_of(inputs: Any, outputs: Any = None, params: Any = None) -> Any:
    """Let MLflow infer a signature."""
    from mlflow.models import infer_signature

    return infer_signature(inputs, outputs, params)


RANDOM = np.random.default_rng(7)
WINE = pd.DataFrame(RANDOM.normal(5, 2, (60, 11)), columns=[f"feature {i}" for i in range(11)])


@pytest.mark.parametrize("example", [None, WINE.head(3)], ids=["made rows", "input example"])
def test_a_linear_model_takes_the_shortest_path_and_answers_the_same_bits(save: Save, example: Any) -> None:
    """Every row gets exactly what PyFuncModel.predict gives."""
    model = ElasticNet(alpha=0.42).fit(WINE, WINE.sum(axis=1))
    saved = save("sklearn", model, signature=signature_of(WINE, pd.Series(model.predict(WINE))), input_example=example)
    assert saved.loaded.path == "array", saved.loaded.why
    assert saved.score(*(WINE[name].tolist() for name in WINE)) == saved.pyfunc.predict(WINE).tolist()


FRAUD = pd.DataFrame(
    {
        "age": RANDOM.choice(["1", "2", "U"], 80),
        "gender": RANDOM.choice(["M", "F"], 80),
        "category": RANDOM.choice(["food", "health"], 80),
        "amount": RANDOM.exponential(30, 80),
    }
)


@pytest.mark.parametrize("unknown", ["ignore", "error"])
def test_a_pipeline_on_text_and_numbers(save: Save, unknown: str) -> None:
    """Made-up text that the encoder does not know must not fail the load; the answers are right either way."""
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown=unknown), ["age", "gender", "category"]), (StandardScaler(), ["amount"])
    )
    model = make_pipeline(encoder, LogisticRegression()).fit(FRAUD, (FRAUD["amount"] > 30).astype("int32"))
    outputs = pd.Series(model.predict(FRAUD).astype("int32"))
    saved = save("sklearn", model, signature=signature_of(FRAUD, outputs))
    assert saved.loaded.path == ("short" if unknown == "ignore" else "full"), saved.loaded.why
    assert saved.score(*(FRAUD[name].tolist() for name in FRAUD)) == saved.pyfunc.predict(FRAUD).tolist()


def test_the_flavour_s_own_predict_function_is_respected(save: Save) -> None:
    """A classifier saved to give probabilities gives them, as an unnamed tensor."""
    frame = WINE.iloc[:, :2]
    model = LogisticRegression().fit(frame, WINE.iloc[:, 2] > 5)
    signature = signature_of(frame, model.predict_proba(frame))
    saved = save("sklearn", model, signature=signature, pyfunc_predict_fn="predict_proba", input_example=frame.head(2))
    assert saved.loaded.path == "short", saved.loaded.why
    assert saved.score(*(frame[name].tolist() for name in frame)) == model.predict_proba(frame).tolist()


def test_tensors_and_integer_names(save: Save) -> None:
    """A model on bare arrays, and one on a frame whose columns are numbers."""
    array = RANDOM.normal(size=(20, 3)).astype(np.float32)
    model = ElasticNet().fit(array, array.sum(axis=1))
    saved = save("sklearn", model, signature=signature_of(array, model.predict(array)))
    assert saved.score(array.tolist()) == saved.pyfunc.predict(array).tolist()


def test_integer_column_names(save: Save) -> None:
    """They reach the model as integers."""
    frame = pd.DataFrame(RANDOM.normal(size=(20, 3)))
    model = ElasticNet().fit(frame.to_numpy(), frame.sum(axis=1))
    saved = save("sklearn", model, signature=signature_of(frame, pd.Series(model.predict(frame.to_numpy()))))
    assert saved.loaded.path == "array", saved.loaded.why
    assert saved.score(*(frame[name].tolist() for name in frame)) == saved.pyfunc.predict(frame).tolist()


def python_model(function: Callable[..., Any]) -> Any:
    """Make a PythonModel of a function of the input and the params."""
    from mlflow.pyfunc.model import PythonModel

    class Model(PythonModel):
        # MLflow would take hints for the signature.
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as above
            return function(model_input, params)

    Model.__module__ = "__main__"
    return Model()


ONE = pd.DataFrame({"x": [1.0, 2.0]})


def test_parameters_reach_the_model_as_mlflow_enforces_them(save: Save) -> None:
    """Given ones and defaults, on the short path as on the full one."""
    model = python_model(lambda frame, params: frame["x"] * params["factor"] + len(params["words"]))
    signature = signature_of(ONE, pd.Series([1.0]), {"factor": 3.0, "words": ["a", "b"]})
    saved = save("pyfunc", model, signature=signature)
    assert saved.loaded.path == "short", saved.loaded.why
    assert saved.score([1.0, 2.0]) == [5.0, 8.0]
    assert saved.score([1.0], params={"factor": 2, "words": ["a"]}) == [3.0]
    assert saved.pyfunc.predict(ONE, params={"factor": 2, "words": ["a"]}).tolist() == [3.0, 5.0]


def test_a_model_without_parameters_is_given_none(save: Save) -> None:
    """As where PyFuncModel.predict is called with a frame alone."""
    saved = save(
        "pyfunc",
        python_model(lambda frame, params: [float(params is None)] * len(frame)),
        signature=signature_of(ONE, pd.Series([1.0])),
    )
    assert saved.score([1.0]) == [float(value) for value in saved.pyfunc.predict(ONE.head(1))]


def test_a_model_that_can_not_be_shown_to_agree_takes_the_full_path(save: Save) -> None:
    """Answers by chance are never equal, so nothing is proven."""
    saved = save(
        "pyfunc",
        python_model(lambda frame, _: np.random.default_rng().normal(size=len(frame))),
        signature=signature_of(ONE, pd.Series([1.0])),
    )
    assert saved.loaded.path == "full"
    assert "other answers" in saved.loaded.why


def test_a_model_that_raises_on_made_rows_is_loaded(save: Save) -> None:
    """Rows made from a signature can be nonsense for a model; its own exception comes through on real ones."""

    def picky(frame: Any, _: Any) -> Any:
        if (frame["x"] < 100).any():
            message = "too small"
            raise ValueError(message)
        return frame["x"]

    saved = save("pyfunc", python_model(picky), signature=signature_of(ONE, pd.Series([1.0])))
    assert saved.loaded.path == "full"
    saved.loaded.warm()
    assert saved.score([100.0]) == [100.0]
    with pytest.raises(ValueError, match="too small"):
        saved.score([1.0])


def declared(*outputs: tuple[str, str | None]) -> Any:
    """Make a signature of one double and some outputs."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec(*output) for output in outputs]))


@pytest.mark.parametrize(
    ("predict", "outputs", "why"),
    [
        (lambda frame: ["text"] * len(frame), [("double", "y")], "has values of str, where double is declared"),
        (lambda frame: frame["x"] / 2, [("long", "y")], "a number that is not whole"),
        (lambda frame: np.column_stack([frame["x"], 1 - frame["x"]]), [("long", None)], "has 2 dimensions"),
        (lambda frame: frame.rename(columns={"x": "z"}), [("double", "y"), ("double", "z")], 'lacks the outputs "y"'),
        (lambda frame: frame["x"] > 1, [("long", "y")], "has values of bool, where int64 is declared"),
        (lambda _: [1.0, 2.0, 3.0], [("double", "y")], "3 rows came back in"),
        (lambda frame: pd.concat([frame["x"]] * 2), [("double", "y")], "rows came back in"),
        (lambda frame: (one for one in frame["x"]), [("double", "y")], "return a list"),
    ],
    ids=["text", "fractions", "probabilities", "names", "booleans", "rows", "no row", "generator"],
)
@pytest.mark.parametrize("example", [None, ONE], ids=["made rows", "input example"])
def test_a_model_that_answers_otherwise_than_declared_is_refused_at_load(
    save: Save, predict: Any, outputs: Any, why: str, example: Any
) -> None:
    """With the reason, what it was shown by, and what its author can do."""
    saved = save(
        "pyfunc", python_model(lambda frame, _: predict(frame)), signature=declared(*outputs), input_example=example
    )
    with pytest.raises(OutputsDiffer, match=re.escape(why)) as caught:
        saved.loaded.warm()
    by = "rows made from its signature" if example is None else "its input example"
    assert str(caught.value).startswith(f"its answer to {by} is not what its signature declares: ")
    assert "prinz.outputs" in str(caught.value)


KNOWN = {7.0: 3, 8.0: 4}


@pytest.mark.parametrize(
    "predict",
    [
        lambda frame: [KNOWN.get(one) for one in frame["x"]],
        lambda frame: frame["x"].map(KNOWN),
        lambda frame: frame[frame["x"].isin(KNOWN)].replace(KNOWN)["x"],
        lambda frame: (
            pd.DataFrame({"y": [KNOWN.get(one) for one in frame["x"]]})
            if KNOWN.keys() & {*frame["x"]}
            else pd.DataFrame()
        ),
        lambda frame: [KNOWN.get(one) for one in frame["x"]] if KNOWN.keys() & {*frame["x"]} else [],
    ],
    ids=["None", "NaN", "rows left out", "no frame", "no list"],
)
def test_an_answer_that_is_missing_for_made_rows_says_nothing(save: Save, predict: Any) -> None:
    """They can be nonsense to a model; of real rows, and of the author's own example, it is a mismatch."""
    model = python_model(lambda frame, _: predict(frame))
    saved = save("pyfunc", model, signature=declared(("long", "y")))
    saved.loaded.warm()
    assert saved.score([7.0, 8.0]) == [3, 4]
    with pytest.raises(OutputDiffers):
        saved.score([7.0, 9.0])


def test_an_answer_that_is_missing_for_the_example_is_refused_at_load(save: Save) -> None:
    """The author chose these rows."""
    model = python_model(lambda frame, _: frame["x"].map(KNOWN))
    example = pd.DataFrame({"x": [7.0, 9.0]})
    saved = save("pyfunc", model, signature=declared(("long", "y")), input_example=example)
    with pytest.raises(OutputsDiffer, match="its input example"):
        saved.loaded.warm()


@pytest.mark.parametrize("values", [[9.0], [7.0, 9.0]])
def test_a_model_that_fails_on_its_own_example_is_refused_at_load(save: Save, values: list[float]) -> None:
    """An unknown category, say: what it raises is in the reason."""
    known = {7.0: 3, 8.0: 4}
    model = python_model(lambda frame, _: [known[one] for one in frame["x"]])
    saved = save("pyfunc", model, signature=declared(("long", "y")), input_example=pd.DataFrame({"x": values}))
    with pytest.raises(UnfitModel, match=r"it fails on its input example: KeyError: 9\.0"):
        saved.loaded.warm()


@pytest.mark.parametrize(
    "predict",
    [
        lambda frame: frame.sort_values("x")["x"].to_numpy() * 10,
        lambda frame: frame.sort_values("x", ascending=False).reset_index(drop=True)["x"] * 10,
        lambda frame: [10 * one for one in sorted(frame["x"])],
        lambda frame: pd.concat([frame[frame["x"] > 1], frame[frame["x"] <= 1]])["x"].tolist(),
    ],
    ids=["sorted array", "sorted, index reset", "sorted list", "grouped"],
)
def test_a_model_that_gives_rows_the_answers_of_others_is_refused_at_load(save: Save, predict: Any) -> None:
    """It was seen on the sample rows; nothing in its answer shows which row is which."""
    saved = save("pyfunc", python_model(lambda frame, _: predict(frame)), signature=declared(("double", "y")))
    with pytest.raises(UnfitModel, match="the answers of other rows"):
        saved.loaded.warm()


@pytest.mark.parametrize(
    "predict",
    [
        lambda frame: frame.sort_values("x")["x"] * 10,
        lambda frame: frame.sample(frac=1, random_state=1).rename(columns={"x": "y"}) * 10,
        lambda frame: pd.concat([frame[frame["x"] > 1], frame[frame["x"] <= 1]]) * 10,
        lambda frame: pd.concat([pd.DataFrame({"y": [one * 10]}) for one in frame["x"]]),
        lambda frame: {"y": frame.sort_values("x")["x"] * 10},
    ],
    ids=["sorted Series", "shuffled frame", "grouped frame", "frames put together", "dict of a sorted Series"],
)
def test_a_model_whose_answer_keeps_the_index_is_shared(save: Save, predict: Any) -> None:
    """Each row gets its own, whatever the order of the answer."""
    saved = save("pyfunc", python_model(lambda frame, _: predict(frame)), signature=declared(("double", "y")))
    saved.loaded.warm()
    assert saved.loaded.sharing.shared, saved.loaded.sharing.why
    assert saved.score([3.0, 1.0, 2.0]) == [30.0, 10.0, 20.0]
    assert saved.score([4.0]) == [40.0]


@pytest.mark.parametrize(
    "predict",
    [
        lambda frame: [frame["x"].iloc[0] * 10] * len(frame),
        lambda frame: frame["x"].iloc[0] * 10,
        lambda frame: {"y": float(frame["x"].iloc[0]) * 10},
        lambda frame: np.array([frame["x"].item() * 10]),
    ],
    ids=["first row for all", "first row alone", "one dict", "one row or nothing"],
)
def test_a_model_made_for_one_row_gets_one_row_at_a_time(save: Save, predict: Any) -> None:
    """So a request of several rows is right as well."""
    saved = save("pyfunc", python_model(lambda frame, _: predict(frame)), signature=declared(("double", "y")))
    saved.loaded.warm()
    assert (saved.loaded.sharing.shared, saved.loaded.sharing.single) == (False, True)
    assert saved.score([3.0, 1.0, 2.0]) == [30.0, 10.0, 20.0]


KEYS = {"cat": 1.0, "dog": 2.0, "eel": 3.0}


@pytest.mark.parametrize(
    ("predict", "keys", "wanted"),
    [
        (lambda frame: sorted(KEYS[one] for one in frame["k"]), ["dog", "cat", "eel"], [2.0, 1.0, 3.0]),
        (lambda frame: [KEYS[frame["k"].iloc[0]]] * len(frame), ["dog", "cat"], [2.0, 1.0]),
        (lambda frame: KEYS[frame["k"].item()], ["eel", "cat"], [3.0, 1.0]),
        (lambda frame: [KEYS[one] for one in frame["k"]], ["dog", "cat"], [2.0, 1.0]),
    ],
    ids=["sorted", "first row for all", "one row or nothing", "each its own"],
)
def test_several_rows_of_a_caller_are_tried_where_no_sample_could_be(
    save: Save, predict: Any, keys: list[str], wanted: list[float]
) -> None:
    """The model raises on rows that were made up, so that its first rows show what it does with several."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(Schema([ColSpec("string", "k")]), Schema([ColSpec("double", "y")]))
    saved = save("pyfunc", python_model(lambda frame, _: predict(frame)), signature=signature)
    saved.loaded.warm()
    assert saved.loaded.sharing == Sharing(
        shared=False, single=False, why="the model raises KeyError on sample rows", shown=False
    )
    assert saved.score(keys) == wanted
    assert saved.score(keys[::-1]) == wanted[::-1]
    with pytest.raises(KeyError):
        saved.score([*keys, "fox"])


def test_lists_of_rows_are_told_from_lists_of_outputs_by_single_rows(save: Save) -> None:
    """Where no sample could be tried, the first request of as many rows as outputs is read right all the same."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        Schema([ColSpec("string", "k")]), Schema([ColSpec("double", "p"), ColSpec("double", "q")])
    )
    by_rows = python_model(lambda frame, _: [np.array([KEYS[one], -KEYS[one]]) for one in frame["k"]])
    saved = save("pyfunc", by_rows, signature=signature)
    saved.loaded.warm()
    got = saved.loaded.score(saved.batch(["cat", "dog"]), None)
    assert got.to_pydict() == {"p": [1.0, 2.0], "q": [-1.0, -2.0]}


def test_rows_of_a_join_that_lost_one_and_doubled_another_are_refused(save: Save) -> None:
    """The index of the answer shows it, though there are as many rows; clean keys at load do not vouch for others."""
    lookup = pd.DataFrame({"y": [1.0, 2.0, 71.0, 72.0]}, index=[1.0, 2.0, 7.0, 7.0])
    model = python_model(lambda frame, _: frame.join(lookup, on="x", how="inner")[["y"]])
    saved = save("pyfunc", model, signature=declared(("double", "y")), input_example=ONE)
    saved.loaded.warm()
    assert saved.score([2.0, 1.0]) == [2.0, 1.0]
    with pytest.raises(OutputDiffers, match=r"a row twice|rows came back"):
        saved.score([7.0, 99.0])


def test_an_index_of_the_model_s_own_stays_one_where_it_looks_like_the_input_s(save: Save) -> None:
    """It was seen at load that the answer's labels are no places."""
    model = python_model(
        lambda frame, _: pd.DataFrame({"y": frame["x"] * 10}).set_index(frame["x"].astype(int).to_numpy())
    )
    saved = save(
        "pyfunc", model, signature=declared(("double", "y")), input_example=pd.DataFrame({"x": [101.0, 202.0]})
    )
    saved.loaded.warm()
    assert saved.score([1.0, 0.0]) == [10.0, 0.0]


@pytest.mark.parametrize(
    "predict",
    [
        lambda frame: frame["x"].fillna(frame["x"].mean()).fillna(-1),
        lambda frame: frame["x"].ffill().fillna(-1),
        lambda frame: frame.groupby("x", dropna=False)["x"].transform("size").astype(float),
        lambda frame: frame["x"] + (1000.0 if (frame["x"] < 0).any() else 0.0),
        lambda frame: (
            np.concatenate([np.sort(part) for part in np.split(frame["x"].to_numpy(), range(32, len(frame), 32))])
            if len(frame) > 32
            else frame["x"]
        ),
        lambda frame: np.concatenate([frame["x"][frame["x"] > 10], frame["x"][frame["x"] <= 10]]),
    ],
    ids=["filled by the mean", "filled from above", "counted", "one below zero", "sorted in chunks", "in two parts"],
)
def test_what_a_row_gets_from_its_company_is_seen(save: Save, predict: Any) -> None:
    """In gaps, among equal rows, among many, and among rows of other signs and sizes."""
    saved = save(
        "pyfunc", python_model(lambda frame, _: predict(frame)), signature=declared(("double", "y")), input_example=ONE
    )
    try:
        saved.loaded.warm()
    except UnfitModel:
        return
    assert not saved.loaded.sharing.shared, saved.loaded.sharing.why


def test_the_memory_of_a_model_s_own_may_be_used_again(save: Save) -> None:
    """Answers to rows that are scored one by one are kept apart from it."""
    held = np.zeros(100)

    def predict(frame: Any, _: Any) -> Any:
        values = held[: len(frame)]
        values[:] = frame["x"] * 2 + (len(frame) > 1 and frame["x"].iloc[0] * 0.0)
        return values

    saved = save("pyfunc", python_model(predict), signature=declared(("double", "y")))
    saved.loaded.warm()
    assert saved.score([3.0, 1.0, 2.0]) == [6.0, 2.0, 4.0]
    saved.loaded.sharing = Sharing(shared=False, single=True, why="asked for")
    saved.loaded._by_params.clear()
    saved.loaded._by_params[""] = saved.loaded.sharing
    assert saved.score([3.0, 1.0, 2.0]) == [6.0, 2.0, 4.0]


def test_other_parameters_are_tried_before_rows_go_together(save: Save) -> None:
    """A model may do something else with them than it did at load."""

    def predict(frame: Any, params: Any) -> Any:
        return np.sort(frame["x"]) if params["order"] == "sorted" else frame["x"].to_numpy()

    saved = save("pyfunc", python_model(predict), signature=signature_of(ONE, np.array([1.0]), {"order": "as it is"}))
    saved.loaded.warm({"order": "as it is"})
    assert saved.loaded.sharing.shared
    assert saved.score([3.0, 1.0, 2.0], params={"order": "sorted"}) == [3.0, 1.0, 2.0]
    assert saved.score([3.0, 1.0, 2.0], params={"order": "as it is"}) == [3.0, 1.0, 2.0]


def test_equal_rows_of_a_caller_decide_nothing(save: Save) -> None:
    """Any order looks the same of them; those of the next request are tried again."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(Schema([ColSpec("string", "k")]), Schema([ColSpec("double", "y")]))
    saved = save(
        "pyfunc", python_model(lambda frame, _: [KEYS[one] for one in sorted(frame["k"])]), signature=signature
    )
    saved.loaded.warm()
    assert saved.score(["cat", "cat"]) == [1.0, 1.0]
    assert saved.score(["dog", "cat", "eel"]) == [2.0, 1.0, 3.0]


def test_a_model_that_needs_several_rows_gets_them(save: Save) -> None:
    """It answers its example, of several rows; a single one is the model's own error."""

    def predict(frame: Any, _: Any) -> Any:
        if len(frame) < 2:
            message = "too few"
            raise ValueError(message)
        return frame["x"]

    saved = save("pyfunc", python_model(predict), signature=declared(("double", "y")), input_example=ONE)
    saved.loaded.warm()
    assert saved.score([3.0, 1.0, 2.0]) == [3.0, 1.0, 2.0]
    assert "ValueError" in saved.loaded.sharing.note
    with pytest.raises(ValueError, match="too few"):
        saved.score([3.0])


def test_answers_that_are_all_the_same_show_nothing(save: Save) -> None:
    """Rows of another sign and size are tried, where each sample gets the same label."""
    model = python_model(lambda frame, _: [bool(frame["x"].iloc[0] < 0)] * len(frame))
    saved = save("pyfunc", model, signature=declared(("boolean", "y")), input_example=ONE)
    saved.loaded.warm()
    assert (saved.loaded.sharing.shared, saved.loaded.sharing.single) == (False, True)
    assert saved.score([1.0, -200.0]) == [False, True]


def test_labels_that_rows_share_are_no_proof_of_an_exchange(save: Save) -> None:
    """A model that compares a row with the one before is right row by row."""
    model = python_model(lambda frame, _: (frame["x"] - frame["x"].shift(fill_value=2.0)) > 0)
    example = pd.DataFrame({"x": [3.0, 1.0, 2.0]})
    saved = save("pyfunc", model, signature=declared(("boolean", "y")), input_example=example)
    saved.loaded.warm()
    assert (saved.loaded.sharing.shared, saved.loaded.sharing.single) == (False, True)
    assert saved.score([3.0, 1.0, 2.5]) == [True, False, True]


def test_rounding_counts_as_the_same_in_answers_of_any_type(save: Save) -> None:
    """Numbers that travel as JSON, and NaN in objects, are compared like others."""
    wide = pd.DataFrame(RANDOM.normal(size=(50, 40)), columns=[f"c{place}" for place in range(40)])
    model = LinearRegression().fit(wide, wide.sum(axis=1))
    saved = save("sklearn", model, signature=False, input_example=wide.head(5))
    saved.loaded.warm()
    assert saved.loaded.sharing.shared, saved.loaded.sharing.why


@pytest.mark.parametrize(
    ("example", "rows", "refused"),
    [
        (np.array([1.5, 2.5]), [1, 0.5], [[2**53 + 1, 0.5], [True, 0.5], ["a", 0.5], [[1.0], [2.0]], [None, 1.0]]),
        (np.array([1, 2]), [3, 4.0], [[1.5, 2], [2**70, 1], [True, 1]]),
        (np.array(["a", "b"]), ["longer", "c"], [[1, "a"], [None, "a"]]),
        (np.ones((2, 2)), [[1.0, 2.0], [3.0, 4.0]], [[[1.0], [2.0]], [[1.0], [2.0, 3.0]], [1.0, 2.0]]),
    ],
    ids=["doubles", "whole numbers", "texts", "rows of two"],
)
def test_an_array_holds_the_very_values_or_is_refused(
    save: Save, example: Any, rows: list[Any], refused: list[Any]
) -> None:
    """It has the dtype and the shape of the example, whatever else is in the same call."""
    saved = unsigned(
        save, lambda array: [str(one) for one in array.reshape(len(array), -1)[:, 0]], input_example=example
    )
    saved.loaded.warm()
    wanted = [str(one) for one in np.array(rows, dtype=example.dtype.type).reshape(len(rows), -1)[:, 0]]

    def score(values: list[Any]) -> list[Any]:
        batch = pa.RecordBatch.from_pydict({"any": [json.dumps(value) for value in values]})
        return [json.loads(text) for text in saved.loaded.score(batch, None).column(0).to_pylist()]

    assert score(rows) == wanted
    for values in refused:
        with pytest.raises(InvalidRows, match="the model takes an array"):
            score(values)


# The form of the input.


@pytest.mark.parametrize(
    ("predict", "example", "columns", "wanted"),
    [
        (lambda texts: [text[::-1] for text in texts], ["hey"], [["hey", "ab"]], ["yeh", "ba"]),
        (lambda numbers: [number + 0.5 for number in numbers], [1.0, 2.0], [[3.0, 1.0]], [3.5, 1.5]),
        (lambda rows: [len(row) for row in rows], [{"a": 1, "b": 2}], [[1, 2], [3, 4]], [2, 2]),
        (lambda row: [f"{row['a']}-{row['b']}"], {"a": "x", "b": "y"}, [["u", "v"], ["w", "z"]], ["u-w", "v-z"]),
        (lambda text: text.upper(), "hey", [["a", "b"]], ["A", "B"]),
    ],
    ids=["list of texts", "list of numbers", "list of dicts", "one dict", "one text"],
)
def test_a_model_gets_its_rows_in_the_form_of_its_example(
    save: Save, predict: Any, example: Any, columns: list[list[Any]], wanted: list[Any]
) -> None:
    """As a DataFrame it would see the names of columns, or something else."""
    model = python_model(lambda data, _: predict(data))
    saved = save("pyfunc", model, signature=signature_of(example, predict(example)), input_example=example)
    saved.loaded.warm()
    assert saved.score(*columns) == wanted
    assert saved.score(*[column[:1] for column in columns]) == wanted[:1]


def test_a_model_that_answers_a_frame_alike_gets_the_frame(save: Save) -> None:
    """A list as example is no reason to leave MLflow's own form where both give the same."""
    model = python_model(lambda data, _: (pd.DataFrame(data).iloc[:, 0] * 2).tolist())
    saved = save("pyfunc", model, signature=signature_of([1.0, 2.0], [2.0, 4.0]), input_example=[1.0, 2.0])
    saved.loaded.warm()
    assert saved.loaded._form is Form.FRAME
    assert saved.score([3.0]) == [6.0]


def unsigned(save: Save, predict: Any, **options: Any) -> Saved:
    """Save a model without a signature."""
    return save("pyfunc", python_model(lambda data, _: predict(data)), signature=False, **options)


def test_a_model_without_signature_and_example_is_refused(save: Save) -> None:
    """Nothing tells whether it takes a DataFrame."""
    with pytest.raises(UnfitModel, match="no signature and no input example"):
        unsigned(save, lambda frame: frame.sum(axis=1))


def test_a_flavour_that_takes_frames_needs_no_signature(save: Save) -> None:
    """MLflow documents that scikit-learn's does."""
    frame = WINE.iloc[:, :2]
    saved = save("sklearn", ElasticNet().fit(frame, frame.sum(axis=1)))
    batch = pa.RecordBatch.from_pydict({name: [json.dumps(value) for value in frame[name][:3]] for name in frame})
    got = [json.loads(text) for text in saved.loaded.score(batch, None).column(0).to_pylist()]
    assert got == saved.pyfunc.predict(frame[:3]).tolist()


@pytest.mark.parametrize(
    ("predict", "example", "batch", "wanted"),
    [
        (lambda texts: [len(text) for text in texts], ["ab"], {"any": ["abc", "d"]}, [3, 1]),
        (lambda rows: [row["a"] for row in rows], [{"a": 1}], {"a": [5, 6]}, [5, 6]),
        (lambda array: array.sum(axis=1), np.ones((2, 2)), {"v": [[1, 2], [3, 4]]}, [3, 7]),
        (lambda row: {"answer": row["q"] * 2}, {"q": "a"}, {"q": ["b", "c"]}, [{"answer": "bb"}, {"answer": "cc"}]),
    ],
    ids=["list", "list of dicts", "array", "dict"],
)
def test_without_a_signature_the_example_tells_the_form(
    save: Save, predict: Any, example: Any, batch: Any, wanted: list[Any]
) -> None:
    """Each column holds JSON; of a list or an array there is one, whatever its name."""
    saved = unsigned(save, predict, input_example=example)
    saved.loaded.warm()
    rows = pa.RecordBatch.from_pydict({name: [json.dumps(value) for value in values] for name, values in batch.items()})
    assert [json.loads(text) for text in saved.loaded.score(rows, None).column(0).to_pylist()] == wanted
    if len(batch) == 1 and not isinstance(example, dict) and not isinstance(example[0], dict):
        with pytest.raises(InvalidRows, match="send one column"):
            saved.loaded.score(rows.append_column("other", rows.column(0)), None)


# Outputs that were observed.


@pytest.mark.parametrize(
    ("predict", "outputs"),
    [
        (
            lambda frame: frame["x"].to_numpy() / 2,
            [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}],
        ),
        (lambda frame: (frame["x"] / 2).rename("half"), [{"type": "double", "name": "half", "required": True}]),
        (
            lambda frame: np.column_stack([frame["x"], frame["x"]]),
            [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}],
        ),
        (
            lambda frame: [{"label": "a", "p": 0.5}] * len(frame),
            [{"type": "string", "name": "label", "required": True}, {"type": "double", "name": "p", "required": True}],
        ),
    ],
    ids=["array", "named Series", "probabilities", "dicts"],
)
def test_what_a_model_gives_can_be_observed(save: Save, predict: Any, outputs: Any, tmp_path: Path) -> None:
    """As MLflow would have inferred it; with that as its outputs, the model is fit."""
    saved = save("pyfunc", python_model(lambda frame, _: predict(frame)), signature=declared(("long", "y")))
    with pytest.raises(OutputsDiffer) as caught:
        saved.loaded.warm()
    seen = saved.loaded.observe(caught.value.sample.rows, None)
    assert seen is not None
    assert json.loads(seen) == outputs
    signature = with_outputs(saved.signature, seen)
    named = signature.outputs[0].name != "output_0"
    again = LoadedModel(
        str(tmp_path / "model"), saved.inputs, output_schema(signature), (named, [f.name for f in signature.outputs])
    )
    again.warm()
    assert again.score(saved.batch([3.0, 1.0]), None).num_rows == 2


def test_objects_and_arrays_reach_the_model_whole(save: Save) -> None:
    """Nested columns in, named nested outputs out."""
    frame = pd.DataFrame({"who": [{"name": "a", "age": 3}, {"name": "b", "age": 4}], "marks": [[1.5, 2.0], [3.0]]})

    def answer(given: Any, _: Any) -> Any:
        return pd.DataFrame(
            {
                "title": [f"{who['name']}{who['age']}" for who in given["who"]],
                "both": [[float(len(marks)), sum(marks)] for marks in given["marks"]],
            }
        )

    saved = save("pyfunc", python_model(answer), signature=signature_of(frame, answer(frame, None)))
    assert saved.loaded.path == "short", saved.loaded.why
    got = saved.loaded.score(saved.batch(frame["who"].tolist(), frame["marks"].tolist()), None)
    assert got.to_pylist() == [{"title": "a3", "both": [2.0, 3.5]}, {"title": "b4", "both": [1.0, 3.0]}]


def test_a_model_without_signature_takes_and_gives_json(save: Save) -> None:
    """Its columns are JSON text of any names, its answer JSON text a row."""
    saved = unsigned(save, lambda frame: [{"sum": float(row.sum())} for _, row in frame.iterrows()], input_example=ONE)
    batch = pa.RecordBatch.from_arrays([pa.array(["1", "2.5"]), pa.array(["3", "4"])], names=["a", "b"])
    got = saved.loaded.score(batch, None)
    assert [json.loads(text) for text in got.column(0).to_pylist()] == [{"sum": 4.0}, {"sum": 6.5}]


def test_a_model_with_type_hints_gets_what_its_hints_say(save: Save) -> None:
    """Pydantic checks the list of its values, of Python's own types."""
    import pydantic
    from mlflow.pyfunc.model import PythonModel

    class Person(pydantic.BaseModel):
        name: str
        age: int

    class Hinted(PythonModel):
        def predict(  # type: ignore[override] # MLflow takes it without the context too
            self, model_input: list[Person], params: dict[str, Any] | None = None
        ) -> list[str]:
            return [f"{person.name} is {person.age}" for person in model_input]

    # Postponed annotations are text, and what they name is local here.
    Hinted.predict.__annotations__.update(model_input=list[Person], **{"return": list[str]})
    Hinted.__module__ = Person.__module__ = "__main__"
    hinted = type("Hinted2", (PythonModel,), {"predict": Hinted.predict, "__module__": "__main__"})
    saved = save("pyfunc", hinted())
    assert saved.loaded._hinted
    assert saved.score([{"name": "a", "age": 3}]) == ["a is 3"]


def test_a_model_with_hints_of_any_type_gets_the_values_as_they_are(save: Save) -> None:
    """Pandas has no part in it: a whole number beside a fraction stays one, and a null stays None."""
    from mlflow.pyfunc.model import PythonModel

    class Hinted(PythonModel):
        def predict(  # type: ignore[override] # MLflow takes it without the context too
            self, model_input: list[Any], params: dict[str, Any] | None = None
        ) -> list[str]:
            return [repr(one) for one in model_input]

    Hinted.predict.__annotations__.update(model_input=list[Any], **{"return": list[str]})
    Hinted.__module__ = "__main__"
    saved = save("pyfunc", Hinted())
    assert saved.loaded._hinted
    assert saved.score(["1", "2.5", "null", '"a"']) == ["1", "2.5", "None", "'a'"]
    assert saved.score(["1", "2.5"]) == ["1", "2.5"]
    assert saved.score(['"a"', "null"]) == ["'a'", "None"]


@pytest.mark.parametrize("beside", ["2.5", "null"])
def test_what_mlflow_would_round_in_an_any_column_is_refused(save: Save, beside: str) -> None:
    """On the full path pandas makes doubles of such a column; on the short one every value stays what it is."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    of_any = ColSpec(AnyType(), "x")  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
    signature = ModelSignature(Schema([of_any]), Schema([ColSpec("string")]))
    saved = save("pyfunc", python_model(lambda frame, _: [repr(one) for one in frame["x"]]), signature=signature)
    assert saved.loaded.path == "short", saved.loaded.why
    assert saved.score([str(2**53 + 1), beside])[0] == repr(2**53 + 1)
    saved.loaded.path, saved.loaded._predict = "full", saved.pyfunc.predict
    with pytest.raises(InvalidRows, match="rounded"):
        saved.score([str(2**53 + 1), beside])
    assert saved.score([str(2**53), beside])[0] == repr(2.0**53)


def test_nulls_that_mlflow_refuses_on_the_full_path_are_the_caller_s_fault(save: Save) -> None:
    """Without the rows in the reason."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    signature = ModelSignature(
        Schema([ColSpec("long", "n", required=False), ColSpec("double", "x")]), Schema([ColSpec("double")])
    )
    saved = save(
        "pyfunc", python_model(lambda frame, _: np.random.default_rng().normal(size=len(frame))), signature=signature
    )
    assert saved.loaded.path == "full"
    with pytest.raises(InvalidRows) as caught:
        saved.score([2**53 + 1, None], [1.0, 2.0])
    assert str(2**53 + 1) not in str(caught.value)


def test_another_signature_than_the_registry_showed_is_refused(save: Save, tmp_path: Path) -> None:
    """A worker never scores columns that it would have to guess."""
    save("pyfunc", python_model(lambda frame, _: frame["x"]), signature=signature_of(ONE, pd.Series([1.0])))
    other = pa.schema([("x", pa.float64()), ("y", pa.float64())])
    with pytest.raises(ValueError, match="signature"):
        LoadedModel(str(tmp_path / "model"), other, pa.schema([("output_0", pa.float64())]))
