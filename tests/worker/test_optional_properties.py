"""Models whose objects have optional properties: which they see as absent or null, and what they answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from prinz_enricher.batch import batch_from_rows, batch_to_rows
from prinz_enricher.ipc.faults import OutputDiffers
from prinz_enricher.signature import Signature, input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel

# MLflow warns of what is not ours.
pytestmark = pytest.mark.filterwarnings("ignore")


class Scored:
    """A saved model, scored as a worker does."""

    def __init__(self, folder: Path, model: Any, **options: Any) -> None:
        import mlflow

        shutil.rmtree(folder, ignore_errors=True)
        mlflow.pyfunc.save_model(path=folder, python_model=model, pip_requirements=["mlflow"], **options)
        self.signature: Signature = read_signature(yaml.safe_load((folder / "MLmodel").read_text()))
        self.loaded = LoadedModel(str(folder), input_schema(self.signature), output_schema(self.signature))

    def score(self, *rows: Any) -> list[Any]:
        """Score values of the only input, and give those of the only output."""
        [field], [output] = self.signature.inputs, self.signature.outputs
        batch = batch_from_rows({field.name: list(rows)}, [field])
        return [row[output.name] for row in batch_to_rows(self.loaded.score(batch, None))]


def declared(inputs: Any, outputs: Any) -> Any:
    """Make MLflow's signature of one input `o` and one output `y`."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(Schema([ColSpec(inputs, "o")]), Schema([ColSpec(outputs, "y")]))


def promo() -> Any:
    """Make an object that may be without most of its properties."""
    from mlflow.types.schema import AnyType, Array, DataType, Map, Object, Property

    inner = Object([Property("n", DataType.long, required=False)])
    kinds: dict[str, Any] = {
        "promo": DataType.double,
        "ratio": DataType.float,
        "note": DataType.string,
        "tags": Array(DataType.string),
        "inner": inner,
        "by": Map(inner),
        "free": AnyType(),  # type: ignore[no-untyped-call]  # MLflow leaves it untyped
    }
    optional = [Property(name, kind, required=False) for name, kind in kinds.items()]
    return Object([Property("sku", DataType.string), *optional])


def python_model(function: Any) -> Any:
    """Make a PythonModel of a function of the values of `o`."""
    from mlflow.pyfunc.model import PythonModel

    class Model(PythonModel):
        # MLflow would take hints for the signature.
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - as above
            return function(model_input["o"].tolist())

    Model.__module__ = "__main__"
    return Model()


NULLS = dict.fromkeys(("promo", "ratio", "note", "tags", "inner", "by", "free"))
ROWS: list[Any] = [
    {"sku": "b"},
    {"sku": "b", "promo": None},
    {"sku": "b", **NULLS},
    {"sku": "a", "promo": 0.1, "inner": {}, "by": {"k": {}, "l": {"n": None}}},
    {"sku": "a", "tags": [], "inner": {"n": None}, "free": {"k": None}},
    {"sku": "a", "ratio": 0.5, "note": "x", "tags": ["t"], "inner": {"n": 7}, "by": {}},
]


def seen(values: list[Any]) -> list[str]:
    """Tell what a model is given; of numbers, without the names of numpy's types."""
    return [repr(_plain(value)) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in sorted(value.items())}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.item() if hasattr(value, "item") else value


@pytest.mark.parametrize("path", ["short", "full"])
def test_a_model_sees_which_properties_are_absent_and_which_are_null(path: str, tmp_path: Path) -> None:
    """On the short path the same as MLflow's own enforcement leaves on the full one, whatever rows are beside it."""
    model = Scored(tmp_path / "m", python_model(seen), signature=declared(promo(), "string"))
    assert model.loaded.path == "short", model.loaded.why
    if path == "full":
        model.loaded.path, model.loaded._predict = "full", model.loaded._pyfunc.predict
    assert model.score(*ROWS) == seen(ROWS)
    assert [model.score(row) for row in ROWS] == [[one] for one in seen(ROWS)]


@pytest.mark.parametrize("within", ["array", "map"])
def test_objects_in_lists_and_maps(within: str, tmp_path: Path) -> None:
    """Each object of a list or a map has just its own properties."""
    from mlflow.types.schema import Array, Map

    rows: list[Any] = [ROWS, [], ROWS[::-1]]
    kind: Any = Array(promo())
    if within == "map":
        rows = [{str(place): row for place, row in enumerate(part)} for part in rows]
        kind = Map(promo())
    model = Scored(tmp_path / "m", python_model(seen), signature=declared(kind, "string"))
    assert model.score(*rows) == seen(rows)


def test_an_input_example_with_absent_properties_proves_the_short_path(tmp_path: Path) -> None:
    """The rows that a model is tried with at load are those of its example, as they are."""
    made: list[Any] = []

    def strict(values: list[Any]) -> list[str]:
        if any(value["sku"] != "b" or "note" in value for value in values):
            raise LookupError
        made.extend(values)
        return seen(values)

    example = pd.DataFrame({"o": ROWS[:2]})
    model = Scored(tmp_path / "m", python_model(strict), signature=declared(promo(), "string"), input_example=example)
    assert model.loaded.path == "short", model.loaded.why
    assert model.score(*ROWS[:2]) == seen(ROWS[:2])


def test_pydantic_gives_an_absent_property_its_default_and_a_null_none(tmp_path: Path) -> None:
    """As where a model with type hints is called without a registry between; at each depth."""
    import pydantic
    from mlflow.pyfunc.model import PythonModel

    class Line(pydantic.BaseModel):
        sku: str
        promo: float | None = 0.25

    class Order(pydantic.BaseModel):
        first: Line | None = Line(sku="none")
        lines: list[Line] = []
        named: dict[str, Line] | None = {}

    class Hinted(PythonModel):
        def predict(self, model_input: list[Order], params: Any = None) -> list[str]:  # type: ignore[override]
            return [repr(order.model_dump()) for order in model_input]

    # Postponed annotations are text, and what they name is local here.
    Hinted.predict.__annotations__.update(model_input=list[Order], params=dict[str, Any] | None)
    Hinted.predict.__annotations__["return"] = list[str]
    Hinted.__module__ = Line.__module__ = Order.__module__ = "__main__"
    # MLflow looks at the hints of a class when it is made.
    hinted = type("Hinted2", (PythonModel,), {"predict": Hinted.predict, "__module__": "__main__"})
    model = Scored(tmp_path / "m", hinted())
    assert model.loaded._hinted
    orders: list[Any] = [
        {"lines": [{"sku": "a"}, {"sku": "b", "promo": None}, {"sku": "c", "promo": 0.5}]},
        {"first": None, "lines": [], "named": None},
        {"first": {"sku": "f"}, "lines": [], "named": {"k": {"sku": "k", "promo": None}}},
    ]
    assert model.score(*orders) == [repr(Order.model_validate(order).model_dump()) for order in orders]


def test_what_a_model_answers_has_the_properties_that_it_gave(tmp_path: Path) -> None:
    """Absent ones stay absent, None stays null; in lists and maps too."""
    from mlflow.types.schema import Array, Map

    same = python_model(lambda values: values)
    signature = declared(promo(), promo())
    assert Scored(tmp_path / "m", same, signature=signature).score(*ROWS) == ROWS
    for kind, rows in ((Array(promo()), [ROWS, []]), (Map(promo()), [{"k": ROWS[0], "l": ROWS[1]}, {}])):
        assert Scored(tmp_path / "m", same, signature=declared(kind, kind)).score(*rows) == rows


def test_an_answer_that_lacks_a_required_text_is_refused(tmp_path: Path) -> None:
    """It is not made a null, which would be a value of text."""
    lacking = python_model(lambda values: [{"note": "x"}] * len(values))
    model = Scored(tmp_path / "m", lacking, signature=declared(promo(), promo()))
    with pytest.raises(OutputDiffers, match="lacks a property"):
        model.score({"sku": "a"})
