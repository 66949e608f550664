"""MLflow's signature JSON, read without MLflow.

Follows `mlflow.types.schema`, also in what it refuses: a signature that MLflow can't read is one of a model that MLflow
can't load. The registry is not trusted: sizes and depth are bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final

from prinz_enricher.signature.arrow import dtype_arrow_type
from prinz_enricher.signature.types import (
    SCALAR_DTYPES,
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Origin,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    SignatureError,
    Tensor,
    Type,
)
from prinz_enricher.signature.value import MAX_DEPTH

# Of the inputs, the outputs or the parameters; with each column comes an object or two, and up to ten values.
MAX_FIELDS: Final = 10_000
MAX_JSON_OBJECTS: Final = 2 * MAX_FIELDS
MAX_JSON_VALUES: Final = 10 * MAX_FIELDS
_TEXTS: Final = re.compile(r'(?s:"(?:[^"\\]|\\.?)*+(?:"|\Z))')

_FEWER: Final = "log the model with fewer columns, or with an array in place of many"

_MAX_TENSOR_SIZE: Final = 2**31 - 1

_SCALARS: Final = {kind.value: Scalar(kind) for kind in ScalarKind}
_UNDECLARED_OUTPUTS: Final = (Field("output_0", AnyValue()),)
_SCALAR_TENSORS: Final = {
    dtype: Scalar(kind) for kind, dtype in SCALAR_DTYPES.items() if kind not in (ScalarKind.BINARY, ScalarKind.DATETIME)
}


def read_signature(mlmodel: Mapping[str, object]) -> Signature:
    """Read the signature of a model from the content of its MLmodel file, or raise SignatureError.

    Where it declares no outputs, there is one output `output_0` of any type.
    """
    written = mlmodel.get("signature")
    if written is None:
        return Signature((), _UNDECLARED_OUTPUTS, (), Origin.MISSING)
    if not isinstance(written, Mapping):
        raise SignatureError("The signature of the MLmodel file is not a mapping.")
    inputs = _fields(_entries(written, "inputs"), "input")
    outputs = _fields(_entries(written, "outputs"), "output") or _UNDECLARED_OUTPUTS
    params = tuple(_named_param(entry) for entry in _entries(written, "params"))
    _refuse_duplicates([param.name for param in params], "parameters")
    missing = not (inputs or params) and outputs is _UNDECLARED_OUTPUTS
    return Signature(inputs, outputs, params, Origin.MISSING if missing else Origin.DECLARED)


def with_outputs(signature: Signature, outputs: str) -> Signature:
    """Return a declared signature with the outputs that a model was observed to return, as MLflow's JSON of a schema.

    Outputs without names keep those declared, where there are as many; arrays of one value a row are scalars. Raises
    SignatureError where they can't be read.
    """
    entries = _entries({"outputs": outputs}, "outputs")
    fields = _fields(entries, "output") or _UNDECLARED_OUTPUTS
    if len(fields) == len(signature.outputs) and all(entry.get("name") is None for entry in entries):
        pairs = zip(fields, signature.outputs, strict=True)
        fields = tuple(replace(field, name=declared.name) for field, declared in pairs)
    return Signature(signature.inputs, tuple(map(_as_scalar, fields)), signature.params, Origin.OBSERVED)


def _as_scalar(field: Field) -> Field:
    if isinstance(field.type, Tensor) and len(field.type.shape) == 1:
        return replace(field, type=_SCALAR_TENSORS.get(field.type.dtype, field.type))
    return field


def _entries(written: Mapping[str, object], section: str) -> list[dict[str, object]]:
    text = written.get(section)
    if not text:
        return []
    if not isinstance(text, str):
        raise SignatureError(f"The {section} of the signature are not JSON text.")
    # Where it may be too much, it is counted without what is in texts.
    if _is_too_much(text) and _is_too_much(_TEXTS.sub("", text)):
        most = f"more than {MAX_JSON_OBJECTS} objects or {MAX_JSON_VALUES} values in their JSON"
        raise SignatureError(f"The {section} of the signature have {most}; {_FEWER}.")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise SignatureError(f"The {section} of the signature are not readable as JSON.") from exc
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise SignatureError(f"The {section} of the signature are not a list of JSON objects.")
    if len(entries) > MAX_FIELDS:
        raise SignatureError(f"The signature has more than {MAX_FIELDS} {section}; {_FEWER}.")
    return entries


def _is_too_much(text: str) -> bool:
    return text.count("{") > MAX_JSON_OBJECTS or sum(map(text.count, ",[{")) > MAX_JSON_VALUES


def _fields(entries: list[dict[str, object]], section: str) -> tuple[Field, ...]:
    named = [entry.get("name") is not None for entry in entries]
    if len(set(named)) > 1:
        raise SignatureError(f"Some {section}s of the signature have names and some have not.")
    tensors = [entry.get("type") == "tensor" for entry in entries]
    if len(set(tensors)) > 1:
        raise SignatureError(f"Some {section}s of the signature are tensors and some are columns.")
    if len(entries) > 1 and all(tensors) and not any(named):
        raise SignatureError(f"The signature has more than one {section} that is a tensor without a name.")
    fields = tuple(_field(entry, f"{section}_{index}") for index, entry in enumerate(entries))
    if not any(named) and any(entry.get("required") is False for entry in entries):
        raise SignatureError(f"The signature has an optional {section} without a name.")
    _refuse_duplicates([field.name for field in fields], f"{section}s")
    return fields


def _field(entry: dict[str, object], unnamed: str) -> Field:
    name = _name(entry["name"]) if entry.get("name") is not None else unnamed
    if entry.get("type") == "tensor":
        return Field(name, _tensor(entry, name), required=True)
    type = _type(entry, name, 0)
    # MLflow's own reading: without the key a scalar column is required, all else is optional.
    required = _required(entry, isinstance(type, Scalar))
    return Field(name, type, required, _description(entry))


def _required(entry: dict[str, object], default: bool) -> bool:
    if "required" in entry:
        return bool(entry["required"])
    if "optional" in entry:  # as MLflow 2.6 to 2.9 wrote it
        return not entry["optional"]
    return default


def _description(entry: dict[str, object]) -> str:
    text = entry.get("description")
    return text if isinstance(text, str) else ""


def _name(name: object) -> str:
    if not isinstance(name, str | int | float) or isinstance(name, bool):
        raise SignatureError("A name in the signature is neither text nor a number.")
    text = str(name)
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise SignatureError("A name in the signature is not Unicode text.") from exc
    return text


def _refuse_duplicates(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SignatureError(f'The signature has two {what} called "{name}".')
        seen.add(name)


def _type(entry: Mapping[str, object], where: str, depth: int) -> Type:
    if depth > MAX_DEPTH:
        raise SignatureError(f'The type of "{where}" is nested deeper than {MAX_DEPTH} levels.')
    written = entry.get("type")
    if not isinstance(written, str):
        raise SignatureError(f'"{where}" has no type.')
    if scalar := _SCALARS.get(written):
        return scalar
    match written:
        case "array":
            return ListOf(_type(_part(entry, "items", where), where, depth + 1))
        case "map":
            return MapOf(_type(_part(entry, "values", where), where, depth + 1))
        case "object":
            return _record(_part(entry, "properties", where), where, depth + 1)
        case "sparkml_vector":
            return ListOf(Scalar(ScalarKind.DOUBLE))
        case "any":
            return AnyValue()
    raise SignatureError(f'"{where}" is of an unknown type: {written[:100]!r}.')


def _part(entry: Mapping[str, object], key: str, where: str) -> Mapping[str, object]:
    part = entry.get(key)
    if not isinstance(part, dict):
        raise SignatureError(f'The type of "{where}" lacks its {key}.')
    return part


def _record(properties: Mapping[str, object], where: str, depth: int) -> Record:
    if not properties:
        raise SignatureError(f'The object "{where}" has no properties.')
    fields = []
    # MLflow sorts them by name.
    for name in sorted(properties):
        entry = properties[name]
        inner = f"{where}.{name}"
        if not isinstance(entry, dict):
            raise SignatureError(f'The property "{inner}" is not a JSON object.')
        type = _type(entry, inner, depth)
        fields.append(Field(_name(name), type, _required(entry, True), _description(entry)))
    return Record(tuple(fields))


def _tensor(entry: Mapping[str, object], where: str) -> Tensor:
    spec = entry.get("tensor-spec")
    if not isinstance(spec, dict) or "dtype" not in spec or "shape" not in spec:
        raise SignatureError(f'The tensor "{where}" lacks its dtype or shape.')
    dtype, shape = spec["dtype"], spec["shape"]
    if not isinstance(dtype, str) or dtype_arrow_type(dtype) is None:
        raise SignatureError(f'The tensor "{where}" is of an unsupported dtype: {str(dtype)[:100]!r}.')
    is_short = isinstance(shape, list) and len(shape) <= MAX_DEPTH
    if not is_short or not all(type(one) is int and -1 <= one <= _MAX_TENSOR_SIZE for one in shape):
        raise SignatureError(f'The shape of the tensor "{where}" is not a list of sizes.')
    if math.prod(max(size, 1) for size in shape) > _MAX_TENSOR_SIZE:
        raise SignatureError(f'The tensor "{where}" has more than {_MAX_TENSOR_SIZE} elements.')
    return Tensor(dtype, tuple(shape))


def _named_param(entry: dict[str, object]) -> Param:
    if "name" not in entry or "default" not in entry:
        raise SignatureError("A parameter of the signature lacks its name or default.")
    name = _name(entry["name"])
    type = _type({**entry, "type": entry.get("type") or entry.get("dtype")}, name, 0)
    if not isinstance(type, Scalar | Record) or type == Scalar(ScalarKind.BINARY):
        raise SignatureError(f'The parameter "{name}" is neither a scalar nor an object.')
    shape, default = entry.get("shape"), entry["default"]
    if shape is None:
        return Param(name, type, _default(default, type, name))
    if shape != [-1] or not isinstance(type, Scalar):
        raise SignatureError(f'The parameter "{name}" has an unsupported shape; expected [-1].')
    if not isinstance(default, list):
        raise SignatureError(f'The default of the parameter "{name}" is not a list.')
    return Param(name, type, [_default(one, type, name) for one in default], (-1,))


def _default(value: object, type: Scalar | Record, name: str) -> object:
    if value is None:
        return None
    if isinstance(type, Record):
        if not isinstance(value, dict):
            raise SignatureError(f'The default of the parameter "{name}" is not a JSON object.')
        return value
    try:
        return _scalar_default(value, type.kind)
    except (TypeError, ValueError, OverflowError) as exc:
        raise SignatureError(f'The default of the parameter "{name}" is not of type {type.kind.value}.') from exc


def _scalar_default(value: object, kind: ScalarKind) -> object:
    match kind, value:
        case (ScalarKind.BOOLEAN, bool()) | (ScalarKind.STRING, str()):
            return value
        case (ScalarKind.INTEGER | ScalarKind.LONG, int()) if not isinstance(value, bool):
            limit = 1 << (31 if kind is ScalarKind.INTEGER else 63)
            if -limit <= value < limit:
                return value
        case (ScalarKind.FLOAT | ScalarKind.DOUBLE, int() | float()) if not isinstance(value, bool):
            return float(value)
        case (ScalarKind.DATETIME, str()):
            return datetime.fromisoformat(value)
    raise TypeError
