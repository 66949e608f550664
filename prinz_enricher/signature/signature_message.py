"""Signatures as messages of the contract."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Final

from prinz_enricher.contract import signature_pb2 as pb
from prinz_enricher.signature.arrow import caller_schema, dtype_arrow_type, input_schema, output_schema
from prinz_enricher.signature.types import (
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
from prinz_enricher.signature.value import MAX_DEPTH, TooDeep, from_value, to_python, to_value

_SCALARS: Final = {kind: f"SCALAR_TYPE_{kind.name}" for kind in ScalarKind}
_KINDS: Final = {pb.ScalarType.Value(name): kind for kind, name in _SCALARS.items()}

_ORIGINS: Final = {origin: f"ORIGIN_{origin.name}" for origin in Origin}
_ORIGIN_NUMBERS: Final = {pb.Signature.Origin.Value(name): origin for origin, name in _ORIGINS.items()}


# Messages with Arrow schemas, which take most of the work, and their bytes; the least recently used go first.
_MAX_KEPT: Final = 256
_MAX_KEPT_BYTES: Final = 32 * 1024 * 1024
_kept: Final[OrderedDict[Signature, bytes]] = OrderedDict()
_lock: Final = Lock()


def to_wire(signature: Signature, *, schemas: bool = True) -> pb.Signature:
    """Write a signature with its digest and, unless they are not wanted, Arrow schemas."""
    if not schemas:
        return _to_message(signature, b"", b"")
    # Not while others wait.
    hash(signature)
    with _lock:
        content = _kept.get(signature)
        if content is not None:
            _kept.move_to_end(signature)
    if content is not None:
        return pb.Signature.FromString(content)
    inputs, outputs = caller_schema(input_schema(signature)), caller_schema(output_schema(signature))
    message = _to_message(signature, inputs.serialize().to_pybytes(), outputs.serialize().to_pybytes())
    content = message.SerializeToString()
    with _lock:
        _kept[signature] = content
        while len(_kept) > _MAX_KEPT or sum(map(len, _kept.values())) > _MAX_KEPT_BYTES:
            _kept.popitem(last=False)
    return message


def _to_message(signature: Signature, inputs: bytes, outputs: bytes) -> pb.Signature:
    return pb.Signature(
        inputs=[_to_field(field) for field in signature.inputs],
        outputs=[_to_field(field) for field in signature.outputs],
        params=[_to_param(param) for param in signature.params],
        origin=_ORIGINS[signature.origin],
        digest=signature.digest,
        input_arrow_schema=inputs,
        output_arrow_schema=outputs,
    )


def from_wire(message: pb.Signature) -> Signature:
    """Read a signature as `to_wire` writes it; its digest and Arrow schemas are computed anew.

    Raises SignatureError for a type, an origin or a value that this version does not know.
    """
    origin = _ORIGIN_NUMBERS.get(message.origin)
    if origin is None:
        raise SignatureError("The origin of the signature is not known to this version.")
    inputs, outputs = (tuple(_from_field(one, 0) for one in part) for part in (message.inputs, message.outputs))
    return Signature(inputs, outputs, tuple(map(_from_param, message.params)), origin)


def _to_field(field: Field) -> pb.Field:
    return pb.Field(name=field.name, type=_to_type(field.type), required=field.required, description=field.description)


def _to_type(type: Type) -> pb.Type:
    match type:
        case Scalar(kind):
            return pb.Type(scalar=_SCALARS[kind])
        case ListOf(items):
            return pb.Type(list=pb.ListType(items=_to_type(items)))
        case MapOf(values):
            return pb.Type(map=pb.MapType(values=_to_type(values)))
        case Record(fields):
            return pb.Type(record=pb.RecordType(fields=[_to_field(field) for field in fields]))
        case Tensor(dtype, shape):
            return pb.Type(tensor=pb.TensorType(dtype=dtype, shape=shape))
        case AnyValue():
            return pb.Type(any=pb.AnyType())


def _to_param(param: Param) -> pb.Param:
    default = to_value(param.default)
    return pb.Param(name=param.name, type=_to_type(param.type), default_value=default, shape=param.shape or ())


def _from_field(field: pb.Field, depth: int) -> Field:
    return Field(field.name, _from_type(field.type, depth), field.required, field.description)


def _from_type(type: pb.Type, depth: int) -> Type:
    if depth > MAX_DEPTH:
        raise SignatureError(f"A type is nested deeper than {MAX_DEPTH} levels.")
    match type.WhichOneof("kind"):
        case "scalar" if type.scalar in _KINDS:
            return Scalar(_KINDS[type.scalar])
        case "list":
            return ListOf(_from_type(type.list.items, depth + 1))
        case "map":
            return MapOf(_from_type(type.map.values, depth + 1))
        case "record":
            return Record(tuple(_from_field(field, depth + 1) for field in type.record.fields))
        case "tensor" if dtype_arrow_type(type.tensor.dtype) is not None:
            return Tensor(type.tensor.dtype, tuple(type.tensor.shape))
        case "any":
            return AnyValue()
        case _:
            raise SignatureError("A type is not known to this version.")


def _from_param(param: pb.Param) -> Param:
    type = _from_type(param.type, 0)
    try:
        default = to_python(from_value(param.default_value))
    except (TooDeep, OverflowError) as exc:
        raise SignatureError(f'The default of parameter "{param.name}" can\'t be read.') from exc
    return Param(param.name, type, default, tuple(param.shape) or None)
