"""Record batches as what a model takes: a DataFrame with the exact dtypes of its signature, or numpy arrays.

A DataFrame is made of blocks, which is what pandas itself keeps columns of one dtype in, so that hundreds of columns
cost little more than one. A block is an ndarray of shape (columns, rows), or a list with an array of pandas' own for
each column where pandas has no block of its dtype: text in pandas 3, and integers with NA.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows
from prinz_enricher.ipc.fields import JSON, TensorType, is_any, is_nested, is_optional, tensor_type

try:
    # Since pandas 3, for blocks that are known to be complete: what pandas checks of columns costs more than all else.
    from pandas.api.internals import create_dataframe_from_blocks  # type: ignore[import-not-found]
except ImportError:
    create_dataframe_from_blocks = None

Block = Any
# The value of a property that an object lacks.
_ABSENT = object()
_AS_NDARRAY = (pa.float32(), pa.int32())
# pandas 3 reads text into a dtype of its own, with NaN for nulls; pandas 2 into objects.
_TEXT: Any = "str" if int(pd.__version__.split(".")[0]) >= 3 else object
# Columns from which putting blocks together and in order costs older pandas less than a column at a time does.
_WIDE = 32
# Rows up to which it does: their values are copied once more.
_FEW_ROWS = 1000
# Whether this Arrow puts columns into one array itself, which costs a seventh.
_ONE_COPY = int(pa.__version__.partition(".")[0]) >= 17


class NullDtypes(NamedTuple):
    """The dtypes of columns with nulls: `object` (None), `nullable` (pandas' own dtypes, with NA) or `float64` (NaN).

    numpy has none for booleans and integers. MLflow's enforcement leaves booleans as objects, and integers in pandas'
    own dtypes; some flavours refuse one or the other (XGBoost takes no objects). What pandas reads integers with gaps
    as, and many models were trained with, are doubles with NaN.
    """

    boolean: str = "object"
    integer: str = "nullable"


class InputBuilder:
    """Builds a model's input from record batches of one input schema."""

    def __init__(self, schema: pa.Schema, names: Sequence[str | int] | None, *, declared: bool = True) -> None:
        """Prepare for the schema of every column that a batch can have, in the signature's order.

        The names are those by which the model knows the columns: text or integers; None where they have none. Where a
        model has no input signature (not `declared`), each column holds JSON, under any name.
        """
        self.null_dtypes = NullDtypes()
        self._declared = declared
        self._fields = {field.name: field for field in schema}
        self._names: dict[str, str | int] = dict(
            zip(schema.names, range(len(schema)) if names is None else names, strict=True)
        )
        self._unnamed = names is None
        self._tensors = {field.name: kind for field in schema if (kind := tensor_type(field)) is not None}
        # Of the last batch: its columns' names, the frame's, and the places of columns of one type, with the first one.
        self._last_names: list[str] | None = None
        self._index: Any = None
        self._alike: list[tuple[pa.Field, list[int]]] = []

    @property
    def takes_arrays(self) -> bool:
        """Whether the model takes numpy arrays."""
        return bool(self._tensors)

    def build(self, batch: pa.RecordBatch) -> Any:
        """Build the input for one call from columns of the schema, absent optional ones left out.

        It is a DataFrame of as many rows; for tensors an ndarray, or a dict of them by name. Raises InvalidRows for a
        value that the model's libraries can't hold.
        """
        if not self._declared:
            columns = [json_column(column_values(column, JSON)) for column in batch.columns]
            return _frame_of([(range(len(columns)), columns)], batch.num_rows, pd.Index(batch.schema.names))
        if not self._tensors:
            return self._frame(batch)
        arrays = {
            self._names[field.name]: _tensor(column, self._tensors[field.name])
            for field, column in zip(batch.schema, batch.columns, strict=True)
        }
        return next(iter(arrays.values())) if self._unnamed else arrays

    def array(self, batch: pa.RecordBatch) -> Any:
        """Return the array under the frame of a batch whose columns are floats of one type; nulls are NaN.

        It has the shape (rows, columns) and the columns' dtype, and is laid out in memory as in the frame.
        """
        if _ONE_COPY:
            return batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()
        block = np.empty((batch.num_columns, batch.num_rows), dtype=batch.column(0).type.to_pandas_dtype())
        for i, column in enumerate(batch.columns):
            block[i] = column.to_numpy(zero_copy_only=False)
        return block.T

    def values(self, batch: pa.RecordBatch) -> list[Any]:
        """Return the values of the one column of a model with type hints, for which MLflow has pandas guess nothing."""
        [field] = self._fields.values()
        if is_any(field):
            return column_values(batch.column(0), field)
        values: list[Any] = self.build(batch).iloc[:, 0].tolist()
        return values

    def check_guesses(self, frame: Any) -> None:
        """Raise InvalidRows for what MLflow would round: it has pandas guess the dtype of columns of any type."""
        for field in self._fields.values():
            name = self._names[field.name]
            if self._declared and is_any(field) and name in frame.columns and frame[name].dtype == object:
                values = frame[name].tolist()
                whole = [one for one in values if isinstance(one, int)]
                if pd.Series(values).dtype == float and any(float(one) != one for one in whole):
                    raise InvalidRows("a whole number beyond 2^53 is beside fractions or nulls, and would be rounded")

    def choose_null_dtypes(self, predict: Callable[[pa.RecordBatch], Any], samples: Sequence[pa.RecordBatch]) -> None:
        """Set the first dtypes of columns with nulls that a model accepts; MLflow's own where it accepts none.

        `predict` has the model predict rows that this builder builds, and raises what the model raises.
        """
        optional = [field for field in self._fields.values() if field.nullable and field.metadata is None]
        booleans = [field.name for field in optional if pa.types.is_boolean(field.type)]
        integers = [field.name for field in optional if pa.types.is_integer(field.type)]
        # MLflow's own first, and integers as doubles last: those are exact up to 2^53 alone.
        own = NullDtypes()
        candidates = [
            NullDtypes(boolean, integer)
            for integer in (("nullable", "float64") if integers else (own.integer,))
            for boolean in (("object", "nullable", "float64") if booleans else (own.boolean,))
        ]
        if len(candidates) == 1:
            return

        def accepts(rows: pa.RecordBatch) -> bool:
            with contextlib.suppress(Exception):
                predict(rows)
                return True
            return False

        for sample in samples:
            if not {*booleans, *integers} <= {*sample.schema.names} or not accepts(sample):
                continue
            columns = [
                pa.array([None, *column.to_pylist()[1:]], column.type) if name in (*booleans, *integers) else column
                for name, column in zip(sample.schema.names, sample.columns, strict=True)
            ]
            rows = pa.RecordBatch.from_arrays(columns, schema=sample.schema)
            for self.null_dtypes in candidates:
                if accepts(rows) and accepts(rows.slice(0, 1)):
                    return
            self.null_dtypes = own
            return

    def _frame(self, batch: pa.RecordBatch) -> Any:
        names = batch.schema.names
        if names != self._last_names:
            self._index = pd.RangeIndex(len(names)) if self._unnamed else pd.Index([self._names[one] for one in names])
            alike: dict[object, tuple[pa.Field, list[int]]] = {}
            for place, field in enumerate(self._fields[name] for name in names):
                # The type alone does not show what nested values hold.
                key = place if is_nested(field.type) else (field.type, is_any(field))
                alike.setdefault(key, (field, []))[1].append(place)
            self._alike = list(alike.values())
            self._last_names = names
        blocks: list[tuple[list[int], Block]] = []
        for field, places in self._alike:
            if pa.types.is_floating(field.type):
                of_floats = batch if len(places) == len(names) else batch.select(places)
                blocks.append((places, self.array(of_floats).T))
                continue
            columns = {place: batch.column(place) for place in places}
            with_nulls = {place for place, column in columns.items() if column.null_count}
            for some in ([place for place in places if place not in with_nulls], sorted(with_nulls)):
                if some:
                    block = _block([columns[place] for place in some], field, batch.num_rows, self.null_dtypes)
                    blocks.append((some, block))
        return _frame_of(blocks, batch.num_rows, self._index)


def _block(columns: Sequence[pa.Array], field: pa.Field, rows: int, null_dtypes: NullDtypes) -> Block:
    """Return columns of one type but floats, with nulls all of them or none, with the dtype that MLflow would give.

    The model may write to the block, as many do; the memory of a batch can't be written.
    """
    kind = field.type
    if is_any(field):
        # MLflow has pandas guess the dtype of such a column, and so its models see numbers, not objects.
        return [json_column(column_values(column, field)) for column in columns]
    if is_nested(kind):
        return [object_column(column_values(column, field)) for column in columns]
    together = pa.chunked_array(columns)
    if together.null_count and (pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        dtype = null_dtypes.boolean if pa.types.is_boolean(kind) else null_dtypes.integer
        if dtype == "float64":
            try:
                return _writable(together.cast(pa.float64()).to_numpy()).reshape(-1, rows)
            except pa.ArrowInvalid as exc:
                raise InvalidRows(
                    "a whole number beyond 2^53 is in a column with nulls, which this model takes as doubles alone"
                ) from exc
        if dtype == "nullable":
            # Such as Int64: a float would change what is above 2^53.
            blank = together.fill_null(pa.scalar(0).cast(kind))
            values, nulls = (_writable(one.to_numpy()).reshape(-1, rows) for one in (blank, together.is_null()))
            array = pd.arrays.BooleanArray if pa.types.is_boolean(kind) else pd.arrays.IntegerArray
            return [array(*one) for one in zip(values, nulls, strict=True)]
    if pa.types.is_string(kind):
        texts = text_column(together.to_numpy())
        if not isinstance(texts, np.ndarray):
            return [texts[start : start + rows] for start in range(0, len(texts), rows)]
        return texts.reshape(-1, rows)
    values = datetimes(together) if pa.types.is_timestamp(kind) else together.to_numpy()
    return _writable(values).reshape(-1, rows)


def _writable(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array if array.flags.writeable else array.copy()


def _frame_of(blocks: Sequence[tuple[Sequence[int], Block]], rows: int, names: Any) -> Any:
    """Put blocks, each with its columns' places in ascending order, into a frame that uses their memory."""
    if create_dataframe_from_blocks is not None and blocks:
        placed = []
        for places, block in blocks:
            if isinstance(block, np.ndarray):
                placed.append((block, np.array(places)))
                continue
            for place, column in zip(places, block, strict=True):
                placed.append((column[None] if isinstance(column, np.ndarray) else column, np.array([place])))
        return create_dataframe_from_blocks(placed, pd.RangeIndex(rows), names)
    if len(blocks) == 1:
        frame = _part(blocks[0][1])
    elif len(names) >= _WIDE and rows <= _FEW_ROWS:
        order = np.argsort([place for places, _ in blocks for place in places])
        frame = pd.concat([_part(block) for _, block in blocks], axis=1).take(order, axis=1)
    else:
        columns = {place: column for places, block in blocks for place, column in zip(places, block, strict=True)}
        frame = _part([columns[place] for place in range(len(names))])
    frame.columns = names
    return frame


def _part(block: Block) -> Any:
    """Return a block as a frame of its own."""
    if isinstance(block, np.ndarray):
        # Of objects pandas would guess another dtype.
        return pd.DataFrame(block.T, dtype=block.dtype, copy=False)
    columns = [pd.Series(column, dtype=object) if column.dtype == object else column for column in block]
    return pd.DataFrame(dict(enumerate(columns)), copy=False)


_UNEVEN = "a row of a tensor has lists of several lengths, which no array can hold"


def _tensor(column: pa.Array, kind: TensorType) -> Any:
    """Return a column as an array of its tensor's dtype and shape."""
    dtype = np.dtype(kind.dtype)
    flat, fixed = column, True
    while is_nested(flat.type):
        fixed = fixed and pa.types.is_fixed_size_list(flat.type)
        if flat.null_count:
            raise InvalidRows("a null is in a tensor")
        flat = flat.flatten()
    if flat.null_count and not (pa.types.is_floating(flat.type) or pa.types.is_string(flat.type)):
        raise InvalidRows("a null is in a tensor")
    if not fixed:
        return _any_size_tensor(column, dtype)
    if dtype.kind in "UOS":
        array = _text_array(flat.to_pylist(), dtype)
    else:
        array = _writable(flat.to_numpy(zero_copy_only=False))
        if array.dtype != dtype:
            held, array = array, array.astype(dtype)
            if not np.array_equal(array.astype(held.dtype), held, equal_nan=held.dtype.kind in "fM"):
                raise InvalidRows(f"a value does not fit the tensor's dtype {kind.dtype}")
    return array.reshape((len(column), *kind.shape[1:]))


def _any_size_tensor(column: pa.Array, dtype: Any) -> Any:
    """Return rows of any size as one array where they are of one size, else as an array of arrays, as MLflow wants."""
    rows = []
    for row in column.to_pylist():
        try:
            rows.append(_text_array(row, dtype) if dtype.kind in "UOS" else np.array(row, dtype=dtype))
        except ValueError as exc:
            raise InvalidRows(_UNEVEN) from exc
    return np.stack(rows) if len({row.shape for row in rows}) == 1 else object_column(rows)


def _text_array(values: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Return texts or bytes, in lists or not, as an array that holds each unchanged."""
    held = np.array(values, dtype=object)
    array = held.astype(dtype)
    if (array.astype(object) == held).all():
        return array
    if not all(value is None or isinstance(value, str | bytes) for value in held.flat):
        raise InvalidRows(_UNEVEN)
    if any(value is None for value in held.flat):
        # As text a null would be the word None.
        return held
    raise InvalidRows("a text of a tensor ends with a NUL, which numpy's arrays drop")


# Columns as the Python values that MLflow's own schema enforcement would hand to a model: lists for arrays (of numbers
# that Python has: float64 and int64; numpy arrays for float32 and int32, which would be refused as lists), dicts of
# numpy scalars for objects, and dicts for maps.


def column_values(column: pa.Array, field: pa.Field) -> list[Any]:
    """Return the values of a column of any type but tensors, one for each row, None for nulls.

    Raises InvalidRows for a value that the model's libraries can't hold.
    """
    kind = field.type
    if is_any(field):
        return [None if text is None else json.loads(text) for text in column.to_pylist()]
    if pa.types.is_struct(kind):
        return _records(column, kind)
    if pa.types.is_map(kind):
        return _maps(column, kind.item_field)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _lists(column, kind.value_field)
    if pa.types.is_timestamp(kind):
        return [None if value is pd.NaT else value for value in pd.Series(datetimes(column))]
    values: list[Any] = column.to_pylist()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return values
    # As MLflow's enforcement leaves them in objects and maps.
    scalar = np.dtype(kind.to_pandas_dtype()).type
    return [None if value is None else scalar(value) for value in values]


def datetimes(column: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Return timestamps as numpy's datetime64[ns], the only one that MLflow accepts; NaT for nulls."""
    try:
        column = column.cast(pa.timestamp("ns"))
    except pa.ArrowInvalid as exc:
        raise InvalidRows("a datetime is before the year 1677 or after 2262, which pandas can't hold") from exc
    return np.asarray(column)


def _records(column: pa.Array, kind: pa.DataType) -> list[Any]:
    names = [child.name for child in kind]
    # `flatten` puts the nulls of the struct into its children, and respects slices.
    children = [_property(child, kind.field(i)) for i, child in enumerate(column.flatten())]
    rows: list[Any] = [
        {name: value for name, value in zip(names, values, strict=True) if value is not _ABSENT}
        for values in zip(*children, strict=True)
    ]
    return _with_nulls(column, rows if children else [{} for _ in range(len(column))])


def _property(column: pa.Array, field: pa.Field) -> list[Any]:
    if not is_optional(field):
        return column_values(column, field)
    values = column_values(column.flatten()[0], field.type.field(0))
    return [value if there else _ABSENT for value, there in zip(values, column.is_valid().to_pylist(), strict=True)]


def _maps(column: pa.Array, item_field: pa.Field) -> list[Any]:
    # The children of a sliced map keep all their values, and its offsets are places in them.
    names, values = column.keys.to_pylist(), column_values(column.items, item_field)
    rows: list[Any] = [
        dict(zip(names[start:end], values[start:end], strict=True))
        for start, end in pairwise(column.offsets.to_pylist())
    ]
    return _with_nulls(column, rows)


def _lists(column: pa.Array, item_field: pa.Field) -> list[Any]:
    kind = item_field.type
    rows: list[Any] = []
    for row in column:
        items = row.values  # noqa: PD011 - no pandas object
        if items is None:
            rows.append(None)
        elif kind in _AS_NDARRAY and not items.null_count:
            rows.append(items.to_numpy().copy())
        elif pa.types.is_timestamp(kind):
            rows.append(datetimes(items).copy())
        elif pa.types.is_floating(kind):
            rows.append(items.to_numpy(zero_copy_only=False).tolist())
        elif is_nested(kind) or is_any(item_field):
            rows.append(column_values(items, item_field))
        else:
            rows.append(items.to_pylist())
    return rows


def _with_nulls(column: pa.Array, rows: list[Any]) -> list[Any]:
    if column.null_count:
        return [row if valid else None for row, valid in zip(rows, column.is_valid().to_pylist(), strict=True)]
    return rows


def json_column(values: list[Any]) -> Any:
    """Return parsed JSON values as an array of the plainest dtype that holds each of them unchanged.

    A model without a signature expects what pandas makes of plain values; what pandas would change stays an object.
    """
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return np.array(values, dtype=bool)
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    if kinds <= {int, float, type(None)} and float in kinds:
        if all(not isinstance(value, int) or abs(value) <= 2**53 for value in values):
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    elif kinds <= {str, type(None)} and str in kinds:
        return text_column(values)
    return object_column(values)


def text_column(values: Sequence[Any]) -> Any:
    """Return text as the array in which pandas itself would hold it."""
    series = pd.Series(values, dtype=_TEXT)
    # pandas lends out what a Series has, for reading alone.
    return series.to_numpy(copy=True) if isinstance(series.dtype, np.dtype) else series.array


def object_column(values: list[Any]) -> Any:
    """Return values of any kind as an array of Python objects."""
    held = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        held[i] = value
    return held
