"""Record batches as what a model takes: a DataFrame with the exact dtypes of its signature, or numpy arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows

from .blocks import NullDtypes, block_of, frame_of, own
from .fields import TensorType, is_any, is_nested, tensor_type
from .values import column_values, json_column

Names = Sequence[str | int] | None

_ONE_COPY = int(pa.__version__.partition(".")[0]) >= 17
"""Whether this Arrow puts columns into one array itself, which costs a seventh."""


class InputBuilder:
    """Builds a model's input from record batches of one input schema.

    Attributes:
        null_dtypes: Of columns of booleans and integers with nulls; `choose_null_dtype` sets it.
    """

    def __init__(self, schema: pa.Schema, names: Names, *, declared: bool = True) -> None:
        """Prepare for a schema.

        Args:
            schema: Of every column that a batch can have, in the signature's order.
            names: The columns' names as the model knows them: text or integers; None where they have none.
            declared: False where the model has no input signature: then each column holds JSON, under any name.
        """
        self.null_dtypes = NullDtypes()
        self._declared = declared
        self._fields = {field.name: field for field in schema}
        order = [field.name for field in schema]
        self._names: dict[str, str | int] = dict(zip(order, range(len(order)) if names is None else names, strict=True))
        self._unnamed = names is None
        tensors = {field.name: kind for field in schema if (kind := tensor_type(field)) is not None}
        self._tensors: dict[str, TensorType] = tensors
        self._last_names: list[str] | None = None
        self._index: Any = None
        self._alike: list[tuple[pa.Field, list[int]]] = []

    @property
    def takes_arrays(self) -> bool:
        """Whether the model takes numpy arrays."""
        return bool(self._tensors)

    def build(self, batch: pa.RecordBatch) -> Any:
        """Build the input for one call.

        Args:
            batch: One or more rows; columns of the schema, absent optional ones left out.

        Returns:
            A DataFrame of as many rows; for tensors an ndarray, or a dict of them by name.

        Raises:
            InvalidRows: A value that the model's libraries can't hold.
        """
        if not self._declared:
            return pd.DataFrame(
                {
                    name: json_column(_parsed(column))
                    for name, column in zip(batch.schema.names, batch.columns, strict=True)
                }
            )
        if self._tensors:
            arrays = {
                self._names[field.name]: _tensor(column, self._tensors[field.name], batch.num_rows)
                for field, column in zip(batch.schema, batch.columns, strict=True)
            }
            return next(iter(arrays.values())) if self._unnamed else arrays
        return self._frame(batch)

    def array(self, batch: pa.RecordBatch) -> Any:
        """Give the array that the frame of a batch stands on, where all of its columns are floats of one type.

        Returns:
            An ndarray of shape (rows, columns) and the columns' dtype, laid out in memory as in the frame.
        """
        if not _ONE_COPY:
            return _block(batch.columns, batch.num_rows).T
        return batch.to_tensor(null_to_nan=True, row_major=False).to_numpy()

    def values(self, batch: pa.RecordBatch) -> list[Any]:
        """Give the values of the one column of a model with type hints, for which MLflow has pandas guess nothing."""
        [field] = self._fields.values()
        if is_any(field):
            return column_values(batch.column(0), field)
        values: list[Any] = self.build(batch).iloc[:, 0].tolist()
        return values

    def check_guesses(self, frame: Any) -> None:
        """Refuse what MLflow's enforcement would round: it has pandas guess the dtype of columns of any type.

        Args:
            frame: What `build` gave.

        Raises:
            InvalidRows: A whole number that a double can't hold is beside fractions or nulls.
        """
        for field in self._fields.values():
            name = self._names[field.name]
            if self._declared and is_any(field) and name in frame.columns and frame[name].dtype == object:
                values = frame[name].tolist()
                if pd.Series(values).dtype == float and any(
                    isinstance(one, int) and float(one) != one for one in values
                ):
                    raise InvalidRows("a whole number beyond 2^53 is beside fractions or nulls, and would be rounded")

    def _frame(self, batch: pa.RecordBatch) -> Any:
        names = batch.schema.names
        if names != self._last_names:
            self._index = pd.RangeIndex(len(names)) if self._unnamed else pd.Index([self._names[one] for one in names])
            self._alike = _alike([self._fields[name] for name in names])
            self._last_names = names
        rows = batch.num_rows
        blocks: list[tuple[list[int], Any]] = []
        for field, places in self._alike:
            if pa.types.is_floating(field.type):
                # A null of a float column is NaN to every model.
                of_floats = batch if len(places) == len(names) else batch.select(places)
                blocks.append((places, self.array(of_floats).T))
                continue
            columns = {place: batch.column(place) for place in places}
            blocks += [
                (some, block_of([columns[place] for place in some], field, rows, self.null_dtypes))
                for some in _by_nulls(columns)
            ]
        return frame_of(blocks, rows, self._index)


def _alike(fields: Sequence[pa.Field]) -> list[tuple[pa.Field, list[int]]]:
    """Give the places of fields that can be read together, with the first of them."""
    alike: dict[object, tuple[pa.Field, list[int]]] = {}
    for place, field in enumerate(fields):
        # What is in nested values, their type alone does not tell.
        key = place if is_nested(field.type) else (field.type, is_any(field))
        alike.setdefault(key, (field, []))[1].append(place)
    return list(alike.values())


def _by_nulls(columns: Mapping[int, pa.Array]) -> list[list[int]]:
    """Give the places of columns without nulls, and of those with some, as far as there are any."""
    nulls = {place for place, column in columns.items() if column.null_count}
    return [some for some in ([place for place in columns if place not in nulls], sorted(nulls)) if some]


def _block(columns: Sequence[pa.Array], rows: int) -> np.ndarray[Any, Any]:
    """Give columns of floats of one type as the rows of one array."""
    block = np.empty((len(columns), rows), dtype=columns[0].type.to_pandas_dtype())
    for i, column in enumerate(columns):
        # A null of a float column is NaN to every model.
        block[i] = column.to_numpy(zero_copy_only=False)
    return block


def _parsed(column: pa.Array) -> list[Any]:
    return column_values(column, pa.field("", pa.utf8(), metadata={b"prinz.type": b"any"}))


def _tensor(column: pa.Array, kind: TensorType, rows: int) -> Any:
    """Give a column as an array of its tensor's dtype and shape."""
    dtype = np.dtype(kind.dtype)
    flat = column
    fixed = True
    while is_nested(flat.type):
        fixed = fixed and pa.types.is_fixed_size_list(flat.type)
        if flat.null_count:
            raise InvalidRows("a null is in a tensor")
        flat = flat.flatten()
    if flat.null_count and not (pa.types.is_floating(flat.type) or pa.types.is_string(flat.type)):
        raise InvalidRows("a null is in a tensor")
    if not fixed:
        return _any_size_tensor(column, dtype)
    array = _text_array(flat.to_pylist(), dtype) if dtype.kind in "UOS" else own(flat.to_numpy(zero_copy_only=False))
    if array.dtype != dtype and dtype.kind not in "UOS":
        cast = array.astype(dtype)
        if not np.array_equal(cast.astype(array.dtype), array, equal_nan=array.dtype.kind in "fM"):
            raise InvalidRows(f"a value does not fit the tensor's dtype {kind.dtype}")
        array = cast
    return array.reshape((rows, *kind.shape[1:]))


def _text_array(values: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Give texts or bytes, in lists or not, as an array that holds each unchanged."""
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


_UNEVEN = "a row of a tensor has lists of several lengths, which no array can hold"


def _any_size_tensor(column: pa.Array, dtype: Any) -> Any:
    """Give rows of any size as one array where they are of one size, else as an array of arrays, as MLflow wants.

    Raises:
        InvalidRows: A row is ragged within itself.
    """
    rows = [_row_array(row, dtype) for row in column.to_pylist()]
    if len({row.shape for row in rows}) == 1:
        return np.stack(rows)
    ragged = np.empty(len(rows), dtype=object)
    for i, row in enumerate(rows):
        ragged[i] = row
    return ragged


def _row_array(row: list[Any], dtype: Any) -> np.ndarray[Any, Any]:
    try:
        return _text_array(row, dtype) if dtype.kind in "UOS" else np.array(row, dtype=dtype)
    except ValueError as exc:
        raise InvalidRows(_UNEVEN) from exc
