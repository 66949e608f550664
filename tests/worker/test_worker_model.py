"""Models of several flavours, loaded and scored as a worker does, against MLflow's own answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.compose import make_column_transformer
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.signature import output_schema
from prinz_enricher.signature.mlflow_json import with_outputs
from prinz_enricher.worker.example import InputForm
from prinz_enricher.worker.loaded_model import LoadedModel
from prinz_enricher.worker.trial import OutputsDiffer, UnfitModel
from tests.worker.saved_model import ONE, Save, declared, python_model, signature_of, unsigned

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


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
    assert saved.loaded._form is InputForm.FRAME
    assert saved.score([3.0]) == [6.0]


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
