"""What a worker sees when it tries a model decides whether, and how, it is served."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from prinz_enricher.ipc.faults import InvalidRows, OutputDiffers
from prinz_enricher.worker.trial import OutputsDiffer, Sharing, UnfitModel
from tests.worker.saved_model import ONE, Save, declared, python_model, signature_of, unsigned

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


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
    wide = pd.DataFrame(np.random.default_rng(7).normal(size=(50, 40)), columns=[f"c{place}" for place in range(40)])
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
