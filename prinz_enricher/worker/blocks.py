"""Columns of one type as blocks of a DataFrame: hundreds of columns cost little more than one.

A block is what pandas itself keeps columns of one dtype in. It is an ndarray of shape (columns, rows), or a list with
an array of pandas' own for each column where pandas has no block of its dtype: text in pandas 3, and integers with NA.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows

from .fields import is_any, is_nested
from .values import column_values, datetimes, json_column, objects, text_column

try:
    # Since pandas 3, for those who know that their blocks are whole: what pandas checks of columns costs more than all.
    from pandas.api.internals import create_dataframe_from_blocks  # type: ignore[import-not-found]
except ImportError:
    create_dataframe_from_blocks = None

Block = Any
"""An ndarray of shape (columns, rows), or a list of pandas' arrays."""

_WIDE = 32
"""Columns from which putting blocks together and in order costs older pandas less than a column at a time does."""

_FEW_ROWS = 1000
"""Rows up to which it does: their values are copied once more."""


class NullDtypes(NamedTuple):
    """What holds columns with nulls: `object` (None), `nullable` (pandas' own dtypes, with NA) or `float64` (NaN).

    Attributes:
        boolean: Those of booleans; by default as MLflow has it.
        integer: Those of integers; `nullable` or `float64`.
    """

    boolean: str = "object"
    integer: str = "nullable"


def block_of(columns: Sequence[pa.Array], field: pa.Field, rows: int, null_dtypes: NullDtypes) -> Block:
    """Give columns with the exact dtype that MLflow's enforcement would leave them with.

    Args:
        columns: Of one type, but floats; with nulls all of them, or none of them.
        field: That of one of them.
        rows: Of each.
        null_dtypes: Of columns with nulls.

    Returns:
        A block that the model may write into, as many do; the memory of a batch can't be written.

    Raises:
        InvalidRows: A value that pandas can't hold.
    """
    kind = field.type
    if is_any(field):
        # MLflow has pandas guess the dtype of such a column, and so its models see numbers, not objects.
        return [_bare(json_column(column_values(column, field))) for column in columns]
    if is_nested(kind):
        return [_bare(objects(column_values(column, field))) for column in columns]
    together = pa.chunked_array(columns)
    if together.null_count and (pa.types.is_boolean(kind) or pa.types.is_integer(kind)):
        dtype = null_dtypes.boolean if pa.types.is_boolean(kind) else null_dtypes.integer
        if dtype == "float64":
            return _floats(together).reshape(-1, rows)
        if dtype == "nullable":
            # Such as Int64: a float would change what is above 2^53.
            blank = together.fill_null(pa.scalar(0).cast(kind))
            values, nulls = (own(one.to_numpy()).reshape(-1, rows) for one in (blank, together.is_null()))
            array = pd.arrays.BooleanArray if pa.types.is_boolean(kind) else pd.arrays.IntegerArray
            return [array(*one) for one in zip(values, nulls, strict=True)]
    if pa.types.is_string(kind):
        texts = _bare(text_column(together.to_numpy()))
        if not isinstance(texts, np.ndarray):
            return [texts[start : start + rows] for start in range(0, len(texts), rows)]
        return texts.reshape(-1, rows)
    values = datetimes(together) if pa.types.is_timestamp(kind) else together.to_numpy()
    return own(values).reshape(-1, rows)


def frame_of(blocks: Sequence[tuple[Sequence[int], Block]], rows: int, names: pd.Index) -> Any:
    """Put blocks together.

    Args:
        blocks: With the places of each one's columns in the frame; in the frame's order within a block.
        rows: Of each.
        names: Of all columns, in the frame's order.

    Returns:
        The DataFrame, which uses the memory of the blocks.
    """
    if create_dataframe_from_blocks is not None and blocks:
        return create_dataframe_from_blocks(_placed(blocks), pd.RangeIndex(rows), names)
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


def _floats(column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    try:
        return own(column.cast(pa.float64()).to_numpy())
    except pa.ArrowInvalid as exc:
        raise InvalidRows(
            "a whole number beyond 2^53 is in a column with nulls, which this model takes as doubles alone"
        ) from exc


def _placed(blocks: Sequence[tuple[Sequence[int], Block]]) -> list[tuple[Any, np.ndarray[Any, Any]]]:
    """Give blocks as pandas 3 takes them."""
    placed = []
    for places, block in blocks:
        if isinstance(block, np.ndarray):
            placed.append((block, np.array(places)))
            continue
        for place, column in zip(places, block, strict=True):
            placed.append((column[None] if isinstance(column, np.ndarray) else column, np.array([place])))
    return placed


def _part(block: Block) -> Any:
    """Give a block as a frame of its own."""
    if isinstance(block, np.ndarray):
        # Of objects pandas would guess another dtype.
        return pd.DataFrame(block.T, dtype=block.dtype, copy=False)
    columns = [pd.Series(column, dtype=object) if column.dtype == object else column for column in block]
    return pd.DataFrame(dict(enumerate(columns)), copy=False)


def _bare(column: Any) -> Any:
    """Give a Series as what holds its values; an array is that itself."""
    if not isinstance(column, pd.Series):
        return column
    # pandas lends out what a Series has, for reading alone.
    return column.to_numpy(copy=True) if isinstance(column.dtype, np.dtype) else column.array


def own(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Give an array that the model may write into, as many do; the memory of a batch can't be written."""
    return array if array.flags.writeable else array.copy()
