"""What a model returned as a record batch of its declared outputs, or the reason why it is not that.

Whatever library a result is of, it is brought to the forms that `answers` takes apart; then each column is converted to
its Arrow type: every value unchanged, or refused.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.interchange

from prinz_enricher.ipc.faults import OutputDiffers, ValueMissing
from prinz_enricher.ipc.fields import VALUE, is_any, is_nested, is_optional, tensor_type

from .answers import AnswerReader, Table

_BUILTIN = frozenset({str, bytes, bytearray, int, float, bool, complex, type(None), dict, list, tuple})

# Up to where a float type holds every integer.
_EXACT = {pa.float64(): 2**53, pa.float32(): 2**24, pa.float16(): 2**11}
_MOST_DIGITS = 20  # of the whole numbers of 64 bits

# Turns one Python value into one that Arrow takes for a type without changing it.
Convert = Callable[[Any], Any]


class OutputReader:
    """Reads what a model returns as record batches of one output schema."""

    def __init__(self, schema: pa.Schema, *, named: bool, required: Collection[str] = ()) -> None:
        """Prepare for a schema, as `AnswerReader` does."""
        self._schema = schema
        self._one_double = schema.types == [pa.float64()]
        self.answers = AnswerReader(schema, named=named, required=required)
        # Whether rows are taken in their order where an index has some of them twice, as that of frames of one row each
        # that were put together, or else such a result is refused; and whether such an index was seen.
        self.trusts_places = self.has_doubles = False
        self._has_own_index = False

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Read results of sample rows, from which the model's form is learned."""
        self.answers.learning = self.trusts_places = True
        try:
            yield
        finally:
            self.answers.learning = self.trusts_places = False

    def is_bare(self, result: object, rows: int) -> bool:
        """Return whether a result is the very values of the only output: a plain array of a double for each row."""
        # Not of a subclass, such as one with a mask.
        if not self._one_double or type(result) is not np.ndarray:
            return False
        return bool(result.dtype == np.float64) and result.shape == (rows,)

    def read(self, result: object, rows: int) -> pa.RecordBatch:
        """Read what the model returned as as many rows of the schema, or raise OutputDiffers, without data in it."""
        columns = self.answers.columns(self._form(result, rows), rows)
        arrays = [output_column(values, field) for values, field in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _form(self, result: Any, rows: int) -> Any:
        """Bring a result to one of the forms of `answers`."""
        form = self._plain(result, rows)
        if isinstance(form, Mapping):
            return {name: self._plain(values, rows) for name, values in form.items()}
        if isinstance(form, np.ndarray) and form.dtype == object and form.ndim == 1:
            # A list, such as a Series of dicts.
            form = list(form)
        if isinstance(form, list | tuple):
            if _BUILTIN.issuperset(map(type, form)):
                return form
            of_outputs = len(form) == len(self._schema) and (rows != len(form) or not self.answers.lists_are_rows)
            return [self._entry(one, rows if of_outputs else 0) for one in form]
        if isinstance(form, Sequence) and not isinstance(form, str | bytes | bytearray | memoryview):
            return list(form)
        if isinstance(form, pd.DataFrame):
            order = self._order(form.index, rows)
            frame = form if order is None else form.take(order)
            columns = [series_values(frame.iloc[:, place]) for place in range(frame.shape[1])]
            return Table(list(map(str, frame.columns)), columns, isinstance(frame.columns, pd.RangeIndex))
        if hasattr(form, "__next__"):
            raise OutputDiffers(f"a {type(form).__name__} came back; return a list")
        return form

    def _entry(self, value: Any, rows: int) -> Any:
        """Return an entry of a list: one row, or with the number of rows the values of one output."""
        if isinstance(value, pd.Series) and {*map(str, value.index)} >= {*self._schema.names}:
            # A row of a frame, with the names of its columns.
            return {str(label): one for label, one in value.items()}
        return self._plain(value, rows)

    def _plain(self, value: Any, rows: int) -> Any:
        """Return a value of another library as what numpy and Python have for it."""
        if type(value) in _BUILTIN or isinstance(value, pd.DataFrame):
            return value
        if isinstance(value, pd.Series):
            order = self._order(value.index, rows)
            return series_values(value if order is None else value.take(order))
        if isinstance(value, pd.Index | pd.api.extensions.ExtensionArray):
            return series_values(pd.Series(value))
        if isinstance(value, np.ndarray):
            return _array(value)
        if isinstance(value, pa.Table | pa.RecordBatch | pa.ChunkedArray | pa.Array):
            return _of_arrow(value)
        if isinstance(value, Mapping | type | np.generic):
            return value
        for has, convert in _LIBRARIES:
            # Of the type: an object may answer to any name.
            if hasattr(type(value), has):
                return convert(value)
        return value

    def _order(self, index: Any, rows: int) -> Any:
        """Return the places of an answer's rows in the order of the input, by the input's index; None as it is."""
        counts = isinstance(index, pd.RangeIndex) and index.start == 0 and index.step == 1
        # That of the input has no name: one with a name is a column of the model's.
        own = index.name is not None or not pd.api.types.is_integer_dtype(index.dtype) or index.hasnans
        if counts or own or len(index) != rows:
            return None
        labels = index.to_numpy(dtype=np.int64)
        own = bool(labels.min() < 0 or labels.max() >= rows)
        self._has_own_index |= own and self.answers.learning
        if own or self._has_own_index:
            # The model's labels are others than the input's, also where they happen to be such numbers.
            return None
        order = np.argsort(labels, kind="stable")
        if not np.array_equal(labels[order], np.arange(rows)):
            self.has_doubles = True
            if self.trusts_places:
                return None
            raise OutputDiffers("the index of the answer has a row twice and another one not at all; reset the index")
        return order


def series_values(series: Any) -> Any:
    """Return a Series as a bare array; one of pandas' own types with nulls as objects."""
    if isinstance(series.dtype, np.dtype):
        return series.to_numpy()
    if isinstance(series.dtype, pd.CategoricalDtype):
        return series.astype(object).to_numpy()
    dtype = getattr(series.dtype, "numpy_dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind in "biuf" and not series.isna().any():
        return series.to_numpy(dtype=dtype)
    return series.to_numpy(dtype=object)


def _array(array: np.ndarray[Any, Any]) -> Any:
    """Return an array of a special kind as a plain one: with a mask, with fields, of texts of any length, a matrix."""
    if array.dtype.names is not None:
        return Table(array.dtype.names, [_array(array[name]) for name in array.dtype.names])
    if array.dtype.kind == "T":
        # numpy's own texts of any length, which Arrow does not know.
        return array.astype(object)
    if isinstance(array, np.ma.MaskedArray) and np.ma.is_masked(array):
        held = array.data.astype(object)
        held[np.ma.getmaskarray(array)] = None
        return held
    return np.asarray(array)


def _of_arrow(value: Any) -> Any:
    """Return a table or a column that can be read as Arrow, such as that of Polars."""
    if isinstance(value, pa.RecordBatch):
        value = pa.Table.from_batches([value])
    if not isinstance(value, pa.Table | pa.ChunkedArray | pa.Array):
        try:
            value = pa.table(value)
        except (TypeError, ValueError, pa.ArrowException):
            # A column of its own.
            value = pa.chunked_array(value)
    if isinstance(value, pa.Table):
        return Table(value.column_names, [_of_arrow(column) for column in value.columns])
    is_number = pa.types.is_integer(value.type) or pa.types.is_floating(value.type)
    return value.to_numpy() if is_number and not value.null_count else value.to_pylist()


_LIBRARIES: list[tuple[str, Any]] = [
    ("__arrow_c_stream__", _of_arrow),
    ("__arrow_c_array__", _of_arrow),
    ("__dataframe__", lambda value: _of_arrow(pyarrow.interchange.from_dataframe(value))),
    # scipy's matrices.
    ("toarray", lambda value: value.toarray()),
    ("model_dump", lambda value: value.model_dump()),
    ("_asdict", lambda value: value._asdict()),
    ("__dataclass_fields__", dataclasses.asdict),
    ("__array__", lambda value: _array(np.asarray(value))),
]
"""How a kind of object is recognised, and how it becomes a table, an array, or a dict by name."""


def output_column(values: Any, field: pa.Field) -> pa.Array:
    """Convert an ndarray, list or tuple with one entry for each row to the type of a declared output.

    Raises OutputDiffers where a value is not of that type, or can't be held by it unchanged.
    """
    kind, any_value = field.type, is_any(field)
    if isinstance(values, np.ndarray) and values.dtype != object and not any_value:
        if not is_nested(kind):
            if values.ndim != 1:
                raise OutputDiffers(f'"{field.name}" has {values.ndim} dimensions, where one value a row is declared')
            return _of_numpy(values, field)
        if tensor_type(field) is not None and (array := _fixed_size_lists(values, field)) is not None:
            return array
    if isinstance(values, np.ndarray) and values.dtype != object and values.ndim == 1:
        values = values.tolist()
    if any_value:
        return pa.array([_json(value, field.name) for value in values], kind)
    convert = _converter(field)
    if not is_nested(kind):
        # A row may be a list of its outputs, of which this is the only one.
        values = [value[0] if _is_list(value) and len(value) == 1 else value for value in values]
    return pa.array([convert(value) for value in values], kind)


def _is_list(value: Any) -> bool:
    # Not an array without dimensions.
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _of_numpy(values: np.ndarray[Any, Any], field: pa.Field) -> pa.Array:
    kind, source = field.type, values.dtype.kind
    if pa.types.is_integer(kind) and source in "iuf":
        return _integers(values, field)
    if pa.types.is_floating(kind) and source in "iuf":
        return _floats(values, field)
    if pa.types.is_timestamp(kind) and source == "M":
        return _times(values, field)
    if pa.types.is_boolean(kind) and source == "b":
        return pa.array(np.ascontiguousarray(values), kind)
    if (pa.types.is_string(kind) and source == "U") or (pa.types.is_binary(kind) and source == "S"):
        return pa.array(values.tolist(), kind)
    raise _not_a(str(values.dtype), field)


def _integers(values: np.ndarray[Any, Any], field: pa.Field) -> pa.Array:
    kind = field.type
    target = np.dtype(kind.to_pandas_dtype())
    if values.dtype == target:
        return pa.array(np.ascontiguousarray(values), kind)
    missing, whole = None, values
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        whole = values[~missing]
        if missing.any() and not field.nullable:
            raise ValueMissing(f'"{field.name}" has a NaN, where a whole number is declared')
        if not (np.isfinite(whole).all() and (whole == np.trunc(whole)).all()):
            raise OutputDiffers(f'"{field.name}" has a number that is not whole, where {kind} is declared')
    limits = np.iinfo(target)
    # Python's numbers compare exactly, where numpy would round a limit to the other type.
    if whole.size and not (int(limits.min) <= int(whole.min()) and int(whole.max()) <= int(limits.max)):
        raise _too_large(field)
    if missing is None or not missing.any():
        return pa.array(values.astype(target), kind)
    return pa.array(np.where(missing, 0, values).astype(target), kind, mask=missing)


def _floats(values: np.ndarray[Any, Any], field: pa.Field) -> pa.Array:
    kind = field.type
    target = np.dtype(kind.to_pandas_dtype())
    if values.dtype.kind in "iu":
        limit = _EXACT[kind]
        if values.size and not (-limit <= int(values.min()) and int(values.max()) <= limit):
            raise OutputDiffers(f'"{field.name}" has a whole number that {kind} can\'t hold exactly')
        return pa.array(values.astype(target), kind)
    with np.errstate(over="ignore"):
        held = np.ascontiguousarray(values.astype(target, copy=False))
    # Into a shorter float a number is rounded to the nearest, as everywhere in this service; too large is refused.
    if held.dtype.itemsize < values.dtype.itemsize and (np.isinf(held) & ~np.isinf(values)).any():
        raise _too_large(field)
    return pa.array(held, kind)


def _times(values: np.ndarray[Any, Any], field: pa.Field) -> pa.Array:
    kind = field.type
    held = values.astype(np.dtype(f"datetime64[{kind.unit}]"))
    missing = np.isnat(values)
    if ((held.astype(values.dtype) != values) & ~missing).any():
        raise OutputDiffers(f'"{field.name}" has a time that {kind} can\'t hold exactly')
    if missing.any() and not field.nullable:
        raise ValueMissing(f'"{field.name}" has a time that is missing')
    return pa.array(held, kind)


def _fixed_size_lists(values: np.ndarray[Any, Any], field: pa.Field) -> pa.Array | None:
    """Return an n-dimensional array as nested lists of fixed size; None where the declared sizes are not fixed."""
    levels, inner = [], field.type
    while pa.types.is_fixed_size_list(inner):
        levels.append(inner)
        inner = inner.value_type
    if is_nested(inner):
        return None
    sizes = tuple(level.list_size for level in levels)
    if values.shape[1:] != sizes:
        raise OutputDiffers(f'"{field.name}" has the shape {values.shape[1:]} a row, where {sizes} is declared')
    array = _of_numpy(values.reshape(-1), pa.field(field.name, inner, nullable=False))
    for level in reversed(levels):
        array = pa.FixedSizeListArray.from_arrays(array, type=level)
    return array


def _converter(field: pa.Field) -> Convert:
    kind, nullable = field.type, field.nullable
    floating = pa.types.is_floating(kind)
    present = _present(field)

    def convert(value: Any) -> Any:
        if value is None or value is pd.NA or value is pd.NaT:
            if nullable or pa.types.is_string(kind):
                return None
            if floating:
                return math.nan
            raise ValueMissing(f'"{field.name}" has a value that is missing')
        if nullable and not floating and isinstance(value, float) and math.isnan(value):
            # pandas writes NaN for what is missing in a column of objects.
            return None
        return present(value)

    return convert


def _present(field: pa.Field) -> Convert:
    """Return what converts values that are not missing."""
    kind = field.type
    if is_any(field):
        return lambda value: _json(value, field.name)
    if pa.types.is_struct(kind):
        return _record(field)
    if pa.types.is_map(kind):
        item = _converter(kind.item_field.with_name(field.name))

        def entries(value: Any) -> list[tuple[str, Any]]:
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise _not_a(type(value).__name__, field)
            return [(key, item(one)) for key, one in value.items()]

        return entries
    if is_nested(kind):
        element = _converter(kind.value_field.with_name(field.name))
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else None

        def items(value: Any) -> list[Any]:
            if not (_is_list(value) or isinstance(value, pd.Series)):
                raise _not_a(type(value).__name__, field)
            if size is not None and len(value) != size:
                raise OutputDiffers(f'"{field.name}" has a list of another length than the declared {size}')
            return [element(one) for one in value]

        return items
    return lambda value: _scalar(value[()] if isinstance(value, np.ndarray) and not value.ndim else value, field)


def _record(field: pa.Field) -> Convert:
    children = {}
    for child in field.type:
        held = child.type.field(0).with_name(child.name) if is_optional(child) else child
        children[child.name] = (_converter(held), is_optional(child))

    def record(value: Any) -> dict[str, Any]:
        value = _as_dict(value)
        if not isinstance(value, Mapping):
            raise _not_a(type(value).__name__, field)
        if any(name not in children for name in value):
            raise OutputDiffers(f'"{field.name}" has a property that is not declared')
        if any(name not in value and not optional for name, (_, optional) in children.items()):
            raise OutputDiffers(f'"{field.name}" lacks a property that is declared')
        return {
            name: {VALUE: convert(value[name])} if optional else convert(value[name])
            for name, (convert, optional) in children.items()
            if name in value
        }

    return record


def _as_dict(value: Any) -> Any:
    """Return an object of pydantic or a dataclass as a dict; anything else as it is."""
    if hasattr(value, "model_dump"):
        return value.model_dump()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


def _scalar(value: Any, field: pa.Field) -> Any:
    kind = field.type
    boolean = isinstance(value, bool | np.bool_)
    if pa.types.is_timestamp(kind):
        return _time(value, field)
    if pa.types.is_boolean(kind):
        if boolean:
            return bool(value)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if isinstance(value, Decimal):
            return _of_decimal(value, field)
        if isinstance(value, int | float | np.integer | np.floating) and not boolean:
            return _number(value, field)
    elif pa.types.is_string(kind):
        if isinstance(value, str):
            # Of an enumeration, its value.
            return str.__str__(value)
    elif pa.types.is_binary(kind) and isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise _not_a(type(value).__name__, field)


def _number(value: Any, field: pa.Field) -> Any:
    array = np.array([value])
    if array.dtype.kind not in "iuf":
        raise OutputDiffers(f'"{field.name}" has a number beyond 64 bits')
    return _of_numpy(array, field)[0].as_py()


def _of_decimal(value: Decimal, field: pa.Field) -> Any:
    """Return a decimal as a number of another type that is the very same, or whose shortest decimal it is."""
    if value.is_nan():
        return _number(math.nan, field)
    if pa.types.is_floating(field.type):
        double = float(value)
        if value.is_infinite() or Decimal(repr(double)) == value or Decimal(double) == value:
            return _number(double, field)
    elif value.is_finite() and value == value.to_integral_value() and value.adjusted() < _MOST_DIGITS:
        return _number(int(value), field)
    raise OutputDiffers(f'"{field.name}" has a decimal that {field.type} can\'t hold exactly')


def _time(value: Any, field: pa.Field) -> Any:
    if isinstance(value, datetime):
        stamp = pd.Timestamp(value)
        value = (stamp.tz_convert("UTC").tz_localize(None) if stamp.tz else stamp).to_numpy()
    elif isinstance(value, date):
        value = np.datetime64(value)
    elif not isinstance(value, np.datetime64):
        raise _not_a(type(value).__name__, field)
    return _times(np.array([value]), field)[0].value


def _not_a(what: str, field: pa.Field) -> OutputDiffers:
    # Of a nested type its kind alone.
    kind = str(field.type).partition("<")[0]
    return OutputDiffers(f'"{field.name}" has values of {what}, where {kind} is declared')


def _too_large(field: pa.Field) -> OutputDiffers:
    return OutputDiffers(f'"{field.name}" has a number that {field.type} can\'t hold')


def _json(value: Any, name: str) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    try:
        return json.dumps(value, default=_jsonable, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise OutputDiffers(f'"{name}" has a {type(value).__name__} that can\'t be written as JSON') from exc


def _jsonable(value: Any) -> Any:
    """Return the JSON form of what Python's own encoder does not know."""
    if value is pd.NA or value is pd.NaT:
        return None
    for types, form in _JSON_FORMS:
        if isinstance(value, types):
            return form(value)
    if isinstance(value, Decimal) and value.is_finite():
        number = int(value) if value == value.to_integral_value() else float(value)
        if isinstance(number, int) or Decimal(repr(number)) == value:
            return number
    if (held := _as_dict(value)) is not value:
        return held
    raise TypeError(type(value).__name__)


_JSON_FORMS: list[tuple[Any, Convert]] = [
    (np.bool_, bool),
    (np.integer, int),
    # Not numpy's longer floats: Python's can't hold them.
    ((np.float16, np.float32, np.float64), float),
    (np.datetime64, lambda value: None if np.isnat(value) else pd.Timestamp(value).isoformat()),
    ((datetime, date), lambda value: value.isoformat()),
    ((bytes, bytearray), lambda value: base64.b64encode(value).decode()),
    (np.ndarray, lambda value: list(value) if value.ndim else value.item()),
    (pd.Series, lambda value: value.tolist()),
    (pd.DataFrame, lambda value: value.to_dict("records")),
    (Mapping, dict),
]
