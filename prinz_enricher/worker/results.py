"""What a model returned as a record batch of its declared outputs, or the reason why it is not that.

Whatever library a result is of, it is brought to the forms that `answers` takes apart (here); then each column is
converted to its Arrow type without changing a value (`outputs`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import OutputDiffers

from .answers import AnswerReader, Table
from .outputs import output_column, series_values

_BUILTIN = frozenset({str, bytes, bytearray, int, float, bool, complex, type(None), dict, list, tuple})


class OutputReader:
    """Reads what a model returns as record batches of one output schema.

    Attributes:
        answers: Takes a result apart.
        trusts_places: Whether rows are taken in their order where an index has some of them twice, as that of frames
            of one row each that were put together; else such a result is refused.
        has_doubles: Whether such an index was seen.
    """

    def __init__(self, schema: pa.Schema, *, named: bool, required: Collection[str] = ()) -> None:
        """Prepare for a schema.

        Args:
            schema: Of the declared outputs.
            named: Whether the model knows its outputs by the names of the schema; else by their position.
            required: Outputs that no row may lack; the schema shows it only of those for which a null is no value.
        """
        self._schema = schema
        self._one_double = schema.types == [pa.float64()]
        self.answers = AnswerReader(schema, named=named, required=required)
        self.trusts_places = self.has_doubles = False
        self._has_own_index = False

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Take results of sample rows, from which the model's form is learned."""
        self.answers.learning = self.trusts_places = True
        try:
            yield
        finally:
            self.answers.learning = self.trusts_places = False

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
        columns = self.answers.columns(self._form(result, rows), rows)
        arrays = [output_column(values, field) for values, field in zip(columns, self._schema, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _form(self, result: Any, rows: int) -> Any:
        """Bring a result to one of the forms of `answers`."""
        form = result if isinstance(result, pd.DataFrame) else self._plain(result, rows)
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
            return _table(
                [str(name) for name in frame.columns], columns, counted=isinstance(frame.columns, pd.RangeIndex)
            )
        if hasattr(form, "__next__"):
            raise OutputDiffers(f"a {type(form).__name__} came back; return a list")
        return form

    def _entry(self, value: Any, rows: int) -> Any:
        """Return an entry of a list: one row, or with the number of rows the values of one output."""
        if isinstance(value, pd.Series) and {str(label) for label in value.index} >= {*self._schema.names}:
            # A row of a frame, with the names of its columns.
            return {str(label): one for label, one in value.items()}
        return self._plain(value, rows)

    def _plain(self, value: Any, rows: int) -> Any:
        """Return what other libraries give as what numpy and Python have for it."""
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
        """Return the places of an answer's rows in the order of the input, by the input's index; None as it is.

        Raises:
            OutputDiffers: The index is the input's, but has a row twice.
        """
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


def _table(names: list[str], columns: list[Any], *, counted: bool = False) -> Table:
    return Table(names, columns, counted or names == [str(place) for place in range(len(names))])


def _array(array: np.ndarray[Any, Any]) -> Any:
    """Return an array of a special kind as a plain one: with a mask, with fields, of texts of any length, a matrix."""
    if array.dtype.names is not None:
        return _table(list(array.dtype.names), [_array(array[name]) for name in array.dtype.names])
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
    try:
        table = value if isinstance(value, pa.Table | pa.ChunkedArray | pa.Array) else pa.table(value)
    except (TypeError, ValueError, pa.ArrowException):
        # A column of its own.
        table = pa.chunked_array(value)
    if isinstance(table, pa.Table):
        return _table(table.column_names, [_arrow_column(column) for column in table.columns])
    return _arrow_column(table)


def _arrow_column(column: Any) -> Any:
    kind = column.type
    if (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not column.null_count:
        return column.to_numpy()
    return column.to_pylist()


def _of_interchange(value: Any) -> Any:
    from pyarrow.interchange import from_dataframe

    return _of_arrow(from_dataframe(value))


_LIBRARIES: list[tuple[str, Any]] = [
    ("__arrow_c_stream__", _of_arrow),
    ("__arrow_c_array__", _of_arrow),
    ("__dataframe__", _of_interchange),
    # scipy's matrices.
    ("toarray", lambda value: value.toarray()),
    ("model_dump", lambda value: value.model_dump()),
    ("_asdict", lambda value: value._asdict()),
    ("__dataclass_fields__", dataclasses.asdict),
    ("__array__", lambda value: _array(np.asarray(value))),
]
"""What tells a kind of object, and how it becomes a table, an array, or a dict by name."""
