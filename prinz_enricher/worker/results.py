"""What a model returned as a record batch of its declared outputs, or the reason why it is not that.

First the result is taken apart into one column for each output (here), then each column is converted to its Arrow type
without changing a value (`outputs`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from .faults import OutputDiffers
from .fields import is_any, is_nested, tensor_type
from .outputs import output_column

_ONE_VALUE = (str, bytes, bytearray, int, float, complex, np.generic, type(None))


class OutputReader:
    """Reads what a model returns as record batches of one output schema."""

    def __init__(self, schema: pa.Schema, *, named: bool, required: Collection[str] = ()) -> None:
        """Prepare for a schema.

        Args:
            schema: Of the declared outputs.
            named: Whether the model knows its outputs by the names of the schema; else by their position.
            required: Outputs that no row may lack; the schema tells it of those alone for which a null is no value.
        """
        self._schema = schema
        self._named = named
        self._required = frozenset(required)
        self._single = len(schema) == 1
        self._one_double = schema.types == [pa.float64()]

    def is_bare(self, result: object, rows: int) -> bool:
        """Tell whether a result is the very values of the only output: an array of a double for each row."""
        return (
            self._one_double
            # Not of another kind, such as one with a mask.
            and type(result) is np.ndarray
            and result.dtype == np.float64
            and result.shape == (rows,)
        )

    def read(self, result: object, rows: int) -> pa.RecordBatch:
        """Read a result.

        Args:
            result: What the model returned.
            rows: How many rows went in.

        Returns:
            As many rows, of exactly the schema.

        Raises:
            OutputDiffers: The result is something else than was declared; the sentence holds no data.
        """
        columns = self._columns(_plain(result), rows)
        arrays = [output_column(values, field) for values, field in zip(columns, self._schema, strict=True)]
        for array, field in zip(arrays, self._schema, strict=True):
            if len(array) != rows:
                raise _rows(len(array), rows, field.name)
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _columns(self, result: object, rows: int) -> Sequence[Any]:
        """Give the values of each output."""
        if not len(self._schema):
            return []
        if self._single and is_any(self._schema.field(0)) and not self._named:
            return [_any_rows(result, rows)]
        if isinstance(result, pd.DataFrame):
            return self._of_frame(result)
        if isinstance(result, Mapping):
            return self._of_dict(result, rows)
        if isinstance(result, np.ndarray):
            return self._of_array(result, rows)
        if isinstance(result, _ONE_VALUE):
            if rows != 1:
                raise OutputDiffers(f"one {type(result).__name__} came back for {rows} rows")
            result = [result]
        if isinstance(result, list | tuple) and result and not (self._single and self._takes_rows_of(result[0])):
            if all(isinstance(row, Mapping) for row in result):
                return [self._of_records(result, field) for field in self._schema]
            if not self._single and all(isinstance(row, list | tuple | np.ndarray) for row in result):
                if any(len(row) != len(self._schema) for row in result):
                    raise OutputDiffers(f"rows of another length than the {len(self._schema)} outputs came back")
                return list(zip(*result, strict=True))
        if self._single and isinstance(result, list | tuple | pd.Series):
            return [result]
        raise OutputDiffers(f"a {type(result).__name__} came back for {len(self._schema)} outputs")

    def _of_records(self, records: Sequence[Mapping[Any, Any]], field: pa.Field) -> list[Any]:
        """Give one output of rows that are dicts; an optional output may be absent."""
        values = []
        for record in records:
            if field.name in record:
                values.append(record[field.name])
            elif field.name.isdecimal() and int(field.name) in record:
                values.append(record[int(field.name)])
            elif field.nullable and field.name not in self._required:
                values.append(None)
            else:
                raise _missing([field.name])
        return values

    def _takes_rows_of(self, row: object) -> bool:
        """Whether a mapping is the value of the only output, and not a row of outputs by name."""
        field = self._schema.field(0)
        holds_mappings = pa.types.is_struct(field.type) or pa.types.is_map(field.type) or is_any(field)
        return holds_mappings and isinstance(row, Mapping) and not (self._named and set(row) == {field.name})

    def _of_frame(self, frame: Any) -> Sequence[Any]:
        names = [str(name) for name in frame.columns]
        if len(set(names)) != len(names):
            raise OutputDiffers("two columns of the same name came back")
        wanted = self._schema.names
        if self._named and set(wanted) <= set(names):
            return [frame.iloc[:, names.index(name)] for name in wanted]
        # Some flavours return a frame whose columns are merely counted.
        counted = isinstance(frame.columns, pd.RangeIndex) or names == [str(i) for i in range(len(names))]
        if self._named and not counted:
            raise _missing([name for name in wanted if name not in names])
        if self._single and (len(names) != 1 or _is_listed(self._schema.field(0))):
            return self._of_array(frame.to_numpy(), len(frame))
        if len(names) != len(wanted):
            raise OutputDiffers(f"{len(names)} columns came back for {len(wanted)} outputs")
        return [frame.iloc[:, i] for i in range(len(names))]

    def _of_dict(self, result: Mapping[Any, Any], rows: int) -> Sequence[Any]:
        named = {str(name): values for name, values in result.items()}
        wanted = self._schema.names
        if self._single and rows == 1 and self._takes_rows_of(result):
            return [[result]]
        if self._named:
            if missing := [name for name in wanted if name not in named]:
                raise _missing(missing)
            chosen = [named[name] for name in wanted]
        elif len(named) == len(wanted):
            chosen = list(named.values())
        else:
            raise OutputDiffers(f"{len(named)} values came back for {len(wanted)} outputs")
        if rows == 1:
            # A dict of bare values is one row.
            chosen = [[value] if isinstance(value, _ONE_VALUE) else value for value in chosen]
        return [_plain(values) for values in chosen]

    def _of_array(self, array: np.ndarray[Any, Any], rows: int) -> Sequence[Any]:
        if array.ndim == 0:
            array = array.reshape(1)
        if self._single:
            field = self._schema.field(0)
            if array.ndim == 2 and array.shape[1] == 1 and not _is_listed(field):
                array = array[:, 0]
            if len(array) != rows:
                raise _rows(len(array), rows, field.name)
            return [array]
        if array.ndim == 2 and array.shape[1] == len(self._schema):
            return [array[:, i] for i in range(array.shape[1])]
        raise OutputDiffers(f"an array of {array.ndim} dimensions came back for {len(self._schema)} outputs")


def _plain(result: object) -> object:
    """Give what other libraries return as what numpy and pandas have for it."""
    if isinstance(result, np.ndarray | pd.DataFrame | pd.Series | list | tuple | Mapping | str | bytes):
        return result
    if isinstance(result, pa.RecordBatch | pa.Table):
        return result.to_pydict()
    if hasattr(result, "toarray") and hasattr(result, "nnz"):
        return result.toarray()
    if isinstance(result, pd.Index | pd.api.extensions.ExtensionArray):
        return pd.Series(result)
    if isinstance(result, _ONE_VALUE) or not hasattr(result, "__array__"):
        return result
    return np.asarray(result)


def _any_rows(result: object, rows: int) -> Sequence[Any]:
    """Give the row values of a result that may be anything."""
    if isinstance(result, pd.DataFrame):
        names = [str(name) for name in result.columns]
        if len(names) == 1 and isinstance(result.columns, pd.RangeIndex):
            return result.iloc[:, 0].tolist()
        values = zip(*(result.iloc[:, i].tolist() for i in range(len(names))), strict=True)
        return [dict(zip(names, row, strict=True)) for row in values] if names else [{} for _ in range(len(result))]
    if isinstance(result, Mapping):
        columns = {str(name): _plain(values) for name, values in result.items()}
        listed = [v for v in columns.values() if isinstance(v, list | tuple | np.ndarray | pd.Series)]
        if columns and len(listed) == len(columns) and all(np.ndim(v) and len(v) == rows for v in listed):
            return [dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True)]
        listing: Sequence[Any] = [result]
    elif isinstance(result, np.ndarray):
        listing = list(result) if result.ndim else [result.item()]
    elif isinstance(result, list | tuple | pd.Series):
        listing = list(result)
    else:
        listing = [result]
    if len(listing) != rows:
        raise _rows(len(listing), rows, "output_0")
    return listing


def _is_listed(field: pa.Field) -> bool:
    """Whether the values of a field are lists, so that a second dimension belongs to each value."""
    tensor = tensor_type(field)
    return is_nested(field.type) if tensor is None else len(tensor.shape) > 1


def _rows(came: int, went: int, name: str) -> OutputDiffers:
    return OutputDiffers(f'{came} rows came back in "{name}" for {went} rows')


def _missing(names: Sequence[str]) -> OutputDiffers:
    return OutputDiffers("it lacks the outputs " + ", ".join(f'"{name}"' for name in names[:5]))
