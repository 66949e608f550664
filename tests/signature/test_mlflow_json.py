"""Signatures as MLflow writes them, read without MLflow and compared with MLflow's own reading."""

from __future__ import annotations

import json
import warnings
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import DataType
from mlflow.types.schema import (
    AnyType,
    Array,
    ColSpec,
    Map,
    Object,
    ParamSchema,
    ParamSpec,
    Property,
    Schema,
    SparkMLVector,
    TensorSpec,
)
from mlflow.types.type_hints import _infer_schema_from_list_type_hint

from prinz_enricher.signature import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Origin,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    SignatureError,
    Tensor,
    Type,
    from_wire,
    input_schema,
    read_signature,
    to_wire,
)
from prinz_enricher.signature.arrow import caller_schema
from prinz_enricher.signature.mlflow_json import with_outputs

D = DataType
SCALARS = Schema([ColSpec(kind, f"c_{kind.name}", required=index % 2 == 0) for index, kind in enumerate(D)])
OBJECT = Object(
    [
        Property("z", D.string),
        Property("a", D.double, required=False),
        Property("inner", Object([Property("list", Array(Array(D.long))), Property("map", Map(Map(D.boolean)))])),
    ]
)
NESTED = Schema(
    [
        ColSpec(Array(D.float), "array"),
        ColSpec(Array(OBJECT), "objects", required=False),
        ColSpec(OBJECT, "object"),
        ColSpec(Map(D.long), "map"),
        ColSpec(Map(Array(D.datetime)), "lists"),
        ColSpec(AnyType(), "any", required=False),  # type: ignore[no-untyped-call]
        ColSpec(Array(AnyType()), "anys"),  # type: ignore[no-untyped-call]
        ColSpec(SparkMLVector(), "vector"),  # type: ignore[no-untyped-call]
        ColSpec(D.binary, "bytes"),
    ]
)
TENSOR = Schema([TensorSpec(np.dtype("float32"), (-1, 28, 28))])
TENSORS = Schema(
    [
        TensorSpec(np.dtype(name), (-1, *rest), name)
        for name, rest in [
            ("bool", ()),
            ("int8", (2,)),
            ("uint64", (-1,)),
            ("float16", ()),
            ("str", ()),
            ("object", ()),
            ("float64", (2, -1)),
            ("datetime64[ns]", ()),
        ]
    ]
)
PARAMS = ParamSchema(
    [
        ParamSpec("temperature", D.double, 0.5),
        ParamSpec("rate", D.float, 0.1),
        ParamSpec("n", D.integer, 3),
        ParamSpec("big", D.long, 2**40),
        ParamSpec("flag", D.boolean, default=True),
        ParamSpec("text", D.string, "a"),
        ParamSpec("when", D.datetime, np.datetime64("2026-11-23T01:02:03")),
        ParamSpec("many", D.double, [1.0, 2.5], (-1,)),
        ParamSpec("nothing", D.string, None),
        ParamSpec("options", Object([Property("k", D.long), Property("o", D.string, required=False)]), {"k": 1}),
    ]
)


def theirs(kind: Any) -> Type:
    """Translate one of MLflow's types."""
    match kind:
        case DataType():
            return Scalar(ScalarKind(kind.name))
        case SparkMLVector():
            return ListOf(Scalar(ScalarKind.DOUBLE))
        case Array():
            return ListOf(theirs(kind.dtype))
        case Map():
            return MapOf(theirs(kind.value_type))
        case Object():
            return Record(tuple(Field(one.name, theirs(one.dtype), one.required) for one in kind.properties))
        case AnyType():
            return AnyValue()
    raise AssertionError(kind)


def fields_of(schema: Schema | None, section: str) -> tuple[Field, ...]:
    """Translate one of MLflow's schemas, field by field."""
    fields = []
    for index, one in enumerate(schema.inputs if schema else ()):
        name = f"{section}_{index}" if one.name is None else str(one.name)
        kind = Tensor(one.type.name, one.shape) if isinstance(one, TensorSpec) else theirs(one.type)
        fields.append(Field(name, kind, bool(one.required)))
    return tuple(fields)


def assert_same(written: dict[str, Any]) -> Signature:
    """Read a signature by both, and compare."""
    ours = read_signature({"signature": written})
    read = ModelSignature.from_dict(written)
    assert ours.inputs == fields_of(read.inputs, "input")
    assert ours.outputs == (fields_of(read.outputs, "output") or (Field("output_0", AnyValue()),))
    for param, other in zip(ours.params, read.params.params if read.params else [], strict=True):
        assert (param.name, param.shape) == (other.name, other.shape)
        assert param.type == theirs(other.dtype)
        assert param.default == other.default
        assert param.default.__class__ is other.default.__class__
    assert from_wire(to_wire(ours)) == ours
    assert from_wire(to_wire(ours)).digest == ours.digest
    assert pa.ipc.read_schema(pa.py_buffer(to_wire(ours).input_arrow_schema)).equals(
        caller_schema(input_schema(ours)), check_metadata=True
    )
    return ours


warnings.simplefilter("ignore")  # MLflow warns of integers, of values of any type and of missing hints
FRAME = pd.DataFrame({"a": [1.5], "b": ["x"], "c": [1], "d": [True], "e": pd.to_datetime(["2026-11-23"]), "f": [b"x"]})
EVERY = {
    "scalars": ModelSignature(SCALARS, Schema([ColSpec(D.double)])),
    "nested": ModelSignature(NESTED, Schema([ColSpec(Array(D.string), "out")])),
    "tensor": ModelSignature(TENSOR, TENSOR),
    "tensors": ModelSignature(TENSORS, TENSORS),
    "params": ModelSignature(SCALARS, None, PARAMS),
    "params alone": ModelSignature(None, None, PARAMS),
    "outputs alone": ModelSignature(None, SCALARS),
    "unnamed columns": ModelSignature(Schema([ColSpec(D.double), ColSpec(D.string)]), Schema([ColSpec(D.long)] * 2)),
    "inferred frame": infer_signature(FRAME, FRAME["a"], {"k": 1}),
    "inferred integer names": infer_signature(pd.DataFrame(np.zeros((2, 3))), np.zeros(2)),
    "inferred array": infer_signature(np.zeros((2, 3)), np.zeros((2, 1), np.int64)),
    "inferred dict of arrays": infer_signature({"x": np.zeros((2, 3)), "y": np.zeros(2)}, {"z": np.zeros(2)}),
    "inferred nested": infer_signature([{"a": {"b": [1, 2]}, "c": None}], ["text"]),
    "inferred null column": infer_signature(pd.DataFrame({"a": [None, None]}), None),
    "hint of numbers": ModelSignature(_infer_schema_from_list_type_hint(list[int])),
    "hint of lists": ModelSignature(_infer_schema_from_list_type_hint(list[list[float]])),
    "hint of maps": ModelSignature(_infer_schema_from_list_type_hint(list[dict[str, float]])),
    "hint of anything": ModelSignature(_infer_schema_from_list_type_hint(list[Any])),
}


@pytest.mark.parametrize("name", EVERY)
def test_what_mlflow_writes_is_read_as_mlflow_reads_it(name: str) -> None:
    """Names, order, types, requirements and parameters are those that MLflow reads."""
    assert_same(EVERY[name].to_dict())


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "a", "type": "double"},
        {"name": "a", "type": "array", "items": {"type": "double"}},
        {"name": "a", "type": "object", "properties": {"x": {"type": "long"}}},
        {"name": "a", "type": "map", "values": {"type": "object", "properties": {"x": {"type": "any"}}}},
        {"name": "a", "type": "any"},
        {"name": "a", "type": "sparkml_vector"},
        {"name": 3, "type": "string"},
        {"type": "string"},
        {"type": "array", "items": {"type": "map", "values": {"type": "any"}}},
        {"name": "a", "type": "double", "required": None},
        {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}},
    ],
)
def test_older_spellings_are_read_as_mlflow_reads_them(entry: dict[str, Any]) -> None:
    """Without `required` a scalar column is required, and all else is optional."""
    assert_same({"inputs": json.dumps([entry]), "outputs": None, "params": None})


def test_parameters_may_be_spelled_dtype() -> None:
    """The key of a parameter's type was `dtype` once."""
    params = json.dumps([{"name": "a", "dtype": "long", "default": 3, "shape": None}])
    assert_same({"inputs": None, "outputs": None, "params": params})


@pytest.mark.parametrize("mlmodel", [{}, {"signature": None}, {"signature": {"inputs": None}}])
def test_a_missing_signature_is_one_of_its_own(mlmodel: dict[str, object]) -> None:
    """A model without a signature takes anything and gives one value of any type."""
    signature = read_signature(mlmodel)
    assert signature == Signature((), (Field("output_0", AnyValue()),), (), Origin.MISSING)
    assert signature.digest == "c9778f85689c2b67cd9c9b583759dad9"


def nested(levels: int) -> dict[str, Any]:
    """Make an array of arrays."""
    entry: dict[str, Any] = {"type": "double"}
    for _ in range(levels):
        entry = {"type": "array", "items": entry}
    return entry


COLUMN = {"name": "a", "type": "double"}
TENSOR_ENTRY = {"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}


@pytest.mark.parametrize(
    "inputs",
    [
        "no json",
        "[" * 100_000,
        "{}",
        "[3]",
        [COLUMN, COLUMN],
        [{"name": 1, "type": "double"}, {"name": "1", "type": "double"}],
        [COLUMN, {"type": "double"}],
        [COLUMN, {"name": "b", **TENSOR_ENTRY}],
        [TENSOR_ENTRY, TENSOR_ENTRY],
        [{"type": "double", "required": False}],
        [{"name": "a", "type": "complex"}],
        [{"name": "a"}],
        [{"name": "a", "type": ["double"]}],
        [{"name": ["a"], "type": "double"}],
        [{"name": "\ud800", "type": "double"}],
        [{"name": "a", "type": "array"}],
        [{"name": "a", "type": "array", "items": "double"}],
        [{"name": "a", "type": "object", "properties": {}}],
        [{"name": "a", "type": "object", "properties": {"x": 3}}],
        [nested(40)],
        [{"type": "tensor", "tensor-spec": {"dtype": "complex128", "shape": [-1]}}],
        [{"type": "tensor", "tensor-spec": {"dtype": "i4,f8", "shape": [-1]}}],
        [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": ["x"]}}],
        [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2**40]}}],
        [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1] * 1000}}],
        [{"type": "tensor"}],
    ],
)
def test_what_can_not_be_read_is_refused_in_a_sentence(inputs: Any) -> None:
    """Nothing that a registry holds ends in another error than SignatureError."""
    text = inputs if isinstance(inputs, str) else json.dumps(inputs)
    with pytest.raises(SignatureError, match=r"^[A-Z\"].{10,300}\.$"):
        read_signature({"signature": {"inputs": text}})


@pytest.mark.parametrize(
    "param",
    [
        {"type": "double", "default": 1.0},
        {"name": "a", "type": "double"},
        {"name": "a", "type": "binary", "default": "x"},
        {"name": "a", "type": "array", "items": {"type": "long"}, "default": []},
        {"name": "a", "type": "long", "default": 1.5},
        {"name": "a", "type": "integer", "default": 2**31},
        {"name": "a", "type": "boolean", "default": 1},
        {"name": "a", "type": "datetime", "default": "soon"},
        {"name": "a", "type": "double", "default": 1.0, "shape": [-1]},
        {"name": "a", "type": "double", "default": [1.0], "shape": [2]},
    ],
)
def test_parameters_that_can_not_be_read_are_refused(param: dict[str, Any]) -> None:
    """A parameter without a name, a default or a type that fits is refused."""
    with pytest.raises(SignatureError):
        read_signature({"signature": {"params": json.dumps([param])}})


def test_the_digest_tells_what_a_call_depends_on() -> None:
    """Names, order, types and requirements change the digest; descriptions and the origin do not."""
    a, b = Field("a", Scalar(ScalarKind.DOUBLE)), Field("b", Scalar(ScalarKind.LONG))
    base = Signature((a, b), (a,))
    others = [
        Signature((b, a), (a,)),
        Signature((a,), (a, b)),
        Signature((a, Field("b", b.type, required=False)), (a,)),
        Signature((a, Field("c", b.type)), (a,)),
        Signature((a, Field("b", ListOf(b.type))), (a,)),
        Signature((a, Field("b", Tensor("int64", (-1,)))), (a,)),
    ]
    assert len({signature.digest for signature in [base, *others]}) == len(others) + 1
    same = Signature((Field("a", a.type, description="the first"), b), (a,), origin=Origin.INFERRED)
    assert same.digest == base.digest
    assert base.digest == "0129ba7b6de7a52057340dd89a655890"


def test_optional_defaults_keep_their_python_types() -> None:
    """A datetime default is a datetime, a float default of a whole number a float."""
    params = json.dumps(
        [
            {"name": "d", "type": "double", "default": 1, "shape": None},
            {"name": "t", "type": "datetime", "default": "2026-11-23T01:02:03", "shape": None},
        ]
    )
    read = read_signature({"signature": {"params": params}}).params
    assert [param.default for param in read] == [1.0, datetime(2026, 11, 23, 1, 2, 3)]
    assert isinstance(read[0].default, float)


@pytest.mark.parametrize(
    ("observed", "outputs"),
    [
        ([{"type": "double"}], (Field("y", Scalar(ScalarKind.DOUBLE)),)),
        ([{"type": "string", "name": "label"}], (Field("label", Scalar(ScalarKind.STRING)),)),
        (
            [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}],
            (Field("y", Scalar(ScalarKind.DOUBLE)),),
        ),
        (
            [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}],
            (Field("y", Tensor("float64", (-1, 2))),),
        ),
        (
            [{"type": "tensor", "tensor-spec": {"dtype": "uint8", "shape": [-1]}}],
            (Field("y", Tensor("uint8", (-1,))),),
        ),
        (
            [{"type": "double"}, {"type": "long"}],
            (Field("output_0", Scalar(ScalarKind.DOUBLE)), Field("output_1", Scalar(ScalarKind.LONG))),
        ),
    ],
)
def test_observed_outputs_take_the_place_of_the_declared(observed: object, outputs: tuple[Field, ...]) -> None:
    """With the declared name where the answer has none; inputs and parameters stay."""
    x = Field("x", Scalar(ScalarKind.DOUBLE))
    declared = Signature((x,), (Field("y", Scalar(ScalarKind.LONG)),))
    assert with_outputs(declared, json.dumps(observed)) == Signature((x,), outputs, (), Origin.OBSERVED)
