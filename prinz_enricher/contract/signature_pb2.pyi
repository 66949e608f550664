from prinz_enricher.contract import value_pb2 as _value_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScalarType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCALAR_TYPE_UNSPECIFIED: _ClassVar[ScalarType]
    SCALAR_TYPE_BOOLEAN: _ClassVar[ScalarType]
    SCALAR_TYPE_INTEGER: _ClassVar[ScalarType]
    SCALAR_TYPE_LONG: _ClassVar[ScalarType]
    SCALAR_TYPE_FLOAT: _ClassVar[ScalarType]
    SCALAR_TYPE_DOUBLE: _ClassVar[ScalarType]
    SCALAR_TYPE_STRING: _ClassVar[ScalarType]
    SCALAR_TYPE_BINARY: _ClassVar[ScalarType]
    SCALAR_TYPE_DATETIME: _ClassVar[ScalarType]
SCALAR_TYPE_UNSPECIFIED: ScalarType
SCALAR_TYPE_BOOLEAN: ScalarType
SCALAR_TYPE_INTEGER: ScalarType
SCALAR_TYPE_LONG: ScalarType
SCALAR_TYPE_FLOAT: ScalarType
SCALAR_TYPE_DOUBLE: ScalarType
SCALAR_TYPE_STRING: ScalarType
SCALAR_TYPE_BINARY: ScalarType
SCALAR_TYPE_DATETIME: ScalarType

class Signature(_message.Message):
    __slots__ = ("inputs", "outputs", "params", "origin", "digest", "input_arrow_schema", "output_arrow_schema")
    class Origin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ORIGIN_UNSPECIFIED: _ClassVar[Signature.Origin]
        ORIGIN_DECLARED: _ClassVar[Signature.Origin]
        ORIGIN_INFERRED: _ClassVar[Signature.Origin]
        ORIGIN_MISSING: _ClassVar[Signature.Origin]
        ORIGIN_OBSERVED: _ClassVar[Signature.Origin]
    ORIGIN_UNSPECIFIED: Signature.Origin
    ORIGIN_DECLARED: Signature.Origin
    ORIGIN_INFERRED: Signature.Origin
    ORIGIN_MISSING: Signature.Origin
    ORIGIN_OBSERVED: Signature.Origin
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUT_ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_ARROW_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    inputs: _containers.RepeatedCompositeFieldContainer[Field]
    outputs: _containers.RepeatedCompositeFieldContainer[Field]
    params: _containers.RepeatedCompositeFieldContainer[Param]
    origin: Signature.Origin
    digest: str
    input_arrow_schema: bytes
    output_arrow_schema: bytes
    def __init__(self, inputs: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Field, _Mapping]]] = ..., params: _Optional[_Iterable[_Union[Param, _Mapping]]] = ..., origin: _Optional[_Union[Signature.Origin, str]] = ..., digest: _Optional[str] = ..., input_arrow_schema: _Optional[bytes] = ..., output_arrow_schema: _Optional[bytes] = ...) -> None: ...

class Field(_message.Message):
    __slots__ = ("name", "type", "required", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: Type
    required: bool
    description: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[Type, _Mapping]] = ..., required: _Optional[bool] = ..., description: _Optional[str] = ...) -> None: ...

class Type(_message.Message):
    __slots__ = ("scalar", "list", "map", "record", "tensor", "any")
    SCALAR_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    ANY_FIELD_NUMBER: _ClassVar[int]
    scalar: ScalarType
    list: ListType
    map: MapType
    record: RecordType
    tensor: TensorType
    any: AnyType
    def __init__(self, scalar: _Optional[_Union[ScalarType, str]] = ..., list: _Optional[_Union[ListType, _Mapping]] = ..., map: _Optional[_Union[MapType, _Mapping]] = ..., record: _Optional[_Union[RecordType, _Mapping]] = ..., tensor: _Optional[_Union[TensorType, _Mapping]] = ..., any: _Optional[_Union[AnyType, _Mapping]] = ...) -> None: ...

class ListType(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: Type
    def __init__(self, items: _Optional[_Union[Type, _Mapping]] = ...) -> None: ...

class MapType(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: Type
    def __init__(self, values: _Optional[_Union[Type, _Mapping]] = ...) -> None: ...

class RecordType(_message.Message):
    __slots__ = ("fields",)
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedCompositeFieldContainer[Field]
    def __init__(self, fields: _Optional[_Iterable[_Union[Field, _Mapping]]] = ...) -> None: ...

class TensorType(_message.Message):
    __slots__ = ("dtype", "shape")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class AnyType(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Param(_message.Message):
    __slots__ = ("name", "type", "default_value", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: Type
    default_value: _value_pb2.Value
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[Type, _Mapping]] = ..., default_value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...
