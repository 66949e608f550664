import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from prinz_enricher.contract import model_pb2 as _model_pb2
from prinz_enricher.contract import signature_pb2 as _signature_pb2
from prinz_enricher.contract import value_pb2 as _value_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ModelView(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_VIEW_UNSPECIFIED: _ClassVar[ModelView]
    MODEL_VIEW_BASIC: _ClassVar[ModelView]
    MODEL_VIEW_FULL: _ClassVar[ModelView]
MODEL_VIEW_UNSPECIFIED: ModelView
MODEL_VIEW_BASIC: ModelView
MODEL_VIEW_FULL: ModelView

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "filter", "view")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    filter: str
    view: ModelView
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., filter: _Optional[str] = ..., view: _Optional[_Union[ModelView, str]] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token", "catalog_revision", "catalog_age")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CATALOG_REVISION_FIELD_NUMBER: _ClassVar[int]
    CATALOG_AGE_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[_model_pb2.Model]
    next_page_token: str
    catalog_revision: str
    catalog_age: _duration_pb2.Duration
    def __init__(self, models: _Optional[_Iterable[_Union[_model_pb2.Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., catalog_revision: _Optional[str] = ..., catalog_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class GetSignatureRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ...) -> None: ...

class GetSignatureResponse(_message.Message):
    __slots__ = ("model", "signature")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    signature: _signature_pb2.Signature
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., signature: _Optional[_Union[_signature_pb2.Signature, _Mapping]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "columns", "arrow_stream", "dense", "params", "outputs", "signature_digest", "request_id", "independent_rows")
    class ParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _value_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    INDEPENDENT_ROWS_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    columns: _value_pb2.ColumnBatch
    arrow_stream: bytes
    dense: _value_pb2.DenseBatch
    params: _containers.MessageMap[str, _value_pb2.Value]
    outputs: _containers.RepeatedScalarFieldContainer[str]
    signature_digest: str
    request_id: str
    independent_rows: bool
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., columns: _Optional[_Union[_value_pb2.ColumnBatch, _Mapping]] = ..., arrow_stream: _Optional[bytes] = ..., dense: _Optional[_Union[_value_pb2.DenseBatch, _Mapping]] = ..., params: _Optional[_Mapping[str, _value_pb2.Value]] = ..., outputs: _Optional[_Iterable[str]] = ..., signature_digest: _Optional[str] = ..., request_id: _Optional[str] = ..., independent_rows: _Optional[bool] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("model", "request_id", "columns", "arrow_stream", "dense", "timing")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ARROW_STREAM_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    model: _model_pb2.ModelRef
    request_id: str
    columns: _value_pb2.ColumnBatch
    arrow_stream: bytes
    dense: _value_pb2.DenseBatch
    timing: ScoreTiming
    def __init__(self, model: _Optional[_Union[_model_pb2.ModelRef, _Mapping]] = ..., request_id: _Optional[str] = ..., columns: _Optional[_Union[_value_pb2.ColumnBatch, _Mapping]] = ..., arrow_stream: _Optional[bytes] = ..., dense: _Optional[_Union[_value_pb2.DenseBatch, _Mapping]] = ..., timing: _Optional[_Union[ScoreTiming, _Mapping]] = ...) -> None: ...

class ScoreTiming(_message.Message):
    __slots__ = ("queue", "compute", "total", "batch_rows")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    queue: _duration_pb2.Duration
    compute: _duration_pb2.Duration
    total: _duration_pb2.Duration
    batch_rows: int
    def __init__(self, queue: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., compute: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., total: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., batch_rows: _Optional[int] = ...) -> None: ...

class ScoreStreamRequest(_message.Message):
    __slots__ = ("sequence", "request", "timeout")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    request: ScoreRequest
    timeout: _duration_pb2.Duration
    def __init__(self, sequence: _Optional[int] = ..., request: _Optional[_Union[ScoreRequest, _Mapping]] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ScoreStreamResponse(_message.Message):
    __slots__ = ("sequence", "response", "status")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    response: ScoreResponse
    status: _status_pb2.Status
    def __init__(self, sequence: _Optional[int] = ..., response: _Optional[_Union[ScoreResponse, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class WatchModelsRequest(_message.Message):
    __slots__ = ("resume_token", "view")
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    resume_token: str
    view: ModelView
    def __init__(self, resume_token: _Optional[str] = ..., view: _Optional[_Union[ModelView, str]] = ...) -> None: ...

class WatchModelsResponse(_message.Message):
    __slots__ = ("added", "changed", "removed_name", "bookmark", "resume_token")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_NAME_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    added: _model_pb2.Model
    changed: _model_pb2.Model
    removed_name: str
    bookmark: Bookmark
    resume_token: str
    def __init__(self, added: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., changed: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., removed_name: _Optional[str] = ..., bookmark: _Optional[_Union[Bookmark, _Mapping]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class Bookmark(_message.Message):
    __slots__ = ("catalog_revision",)
    CATALOG_REVISION_FIELD_NUMBER: _ClassVar[int]
    catalog_revision: str
    def __init__(self, catalog_revision: _Optional[str] = ...) -> None: ...
