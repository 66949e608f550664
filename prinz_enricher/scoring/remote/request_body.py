"""Checked batches as the body of a request to MLflow's `/invocations`.

The server takes the same rows in several forms, which cost it more or less, and some of which it does not read right:
`choose` gives the cheapest one by which a model sees the very values of a batch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from prinz_enricher.scoring.remote.json_columns import texts, write_text
from prinz_enricher.scoring.remote.losses import ends_with_nul, refuse_losses
from prinz_enricher.signature import AnyValue, Scalar, ScalarKind, Signature, Tensor, Type

JSON: Final = "application/json"
PARQUET: Final = "application/vnd.apache.parquet"

PARQUET_VALUES: Final = 800
"""From so many values on, over all columns, Parquet costs less than JSON (see `benchmarks/remote_codec.py`)."""

INPUTS_VALUES: Final = 2_000
"""Up to so many values, over all columns, the server reads JSON by columns faster than by rows."""


class Form(Enum):
    """How rows are written."""

    SPLIT = "dataframe_split"
    """JSON, row by row: any column."""

    INPUTS = "inputs"
    """JSON, column by column: scalars, and tensors always; or the bare values of the one column of a model."""

    PARQUET = "parquet"
    """Scalars, without parameters; servers before MLflow 3 do not take it."""


@dataclass(frozen=True, slots=True)
class Body:
    """The body of a request.

    Attributes:
        content: Its bytes.
        content_type: Its media type, without parameters.
    """

    content: bytes = field(repr=False)
    content_type: str


# A name that MLflow may know as a number: the signature does not tell the two apart.
_NUMBER: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a signature means for its requests.

    Attributes:
        types: The type of each input.
        tensors: Whether the inputs are tensors.
        bare: Whether the one input has no name, as that of a model with type hints.
        scalars: Whether all inputs are scalars with names that are text.
        numbers: Names by which MLflow may know a column instead, if it knows it by no text.
    """

    types: dict[str, Type]
    tensors: bool
    bare: bool
    scalars: bool
    numbers: dict[str, int]


@lru_cache(maxsize=256)
def _layout(signature: Signature) -> _Layout:
    types = {one.name: one.type for one in signature.inputs}
    names = list(types)
    tensors = any(isinstance(type, Tensor) for type in types.values())
    # Inputs without names were given these when the signature was read; a column may be called so, too.
    unnamed = bool(names) and names == [f"input_{place}" for place in range(len(names))]
    if unnamed:
        numbers = {name: place for place, name in enumerate(names)}
    else:
        numbers = {name: int(name) for name in names if _NUMBER.fullmatch(name)}
    scalars = bool(names) and not numbers and all(isinstance(type, Scalar) for type in types.values())
    return _Layout(types, tensors, unnamed and len(names) == 1 and not tensors, scalars, numbers)


def choose(batch: pa.RecordBatch, signature: Signature, parquet_works: bool) -> Form:
    """Choose the form in which a batch is sent.

    Args:
        batch: Checked rows.
        signature: Of the model.
        parquet_works: Whether the server is known to take Parquet.

    Returns:
        The form that costs the least of those that change no value.
    """
    layout = _layout(signature)
    if layout.tensors:
        return Form.INPUTS
    if layout.bare:
        type = next(iter(layout.types.values()))
        scalar = isinstance(type, Scalar)
        return Form.SPLIT if scalar and not _is_plain(batch.column(0), type) else Form.INPUTS
    if not layout.scalars or not batch.num_columns:
        return Form.SPLIT
    parquet = parquet_works and not signature.params
    values = batch.num_rows * batch.num_columns
    if parquet and values >= PARQUET_VALUES:
        return Form.PARQUET
    if values <= INPUTS_VALUES and all(
        _is_plain(array, layout.types[name]) for name, array in zip(batch.schema.names, batch.columns, strict=True)
    ):
        return Form.INPUTS
    # Of these the row-wise JSON holds all but nulls of booleans and of binary.
    return Form.PARQUET if parquet and any(map(_has_bare_null, batch.columns)) else Form.SPLIT


def _is_plain(array: pa.Array, type: Type) -> bool:
    """Tell whether numpy reads a column right, as the server has it do for `inputs`."""
    match type:
        case Scalar(ScalarKind.FLOAT | ScalarKind.DOUBLE | ScalarKind.DATETIME):
            return True
        case Scalar(ScalarKind.BINARY):
            return False
        case Scalar(ScalarKind.STRING):
            return not array.null_count and not ends_with_nul(array)
    return not array.null_count


def _has_bare_null(array: pa.Array) -> bool:
    return bool(array.null_count and (pa.types.is_boolean(array.type) or pa.types.is_binary(array.type)))


def encode(batch: pa.RecordBatch, signature: Signature, params: Mapping[str, object], form: Form) -> Body:
    """Write a request.

    Args:
        batch: Checked rows: the columns of the signature's input schema, absent optional ones left out; where the
            signature has no inputs, columns of any name that hold JSON.
        signature: Of the model.
        params: The value of each parameter of the signature; a None is left to the server's default.
        form: One that `choose` gives for the batch, or SPLIT.

    Returns:
        The body. In JSON, NaN and infinities may be tokens, `NaN`, `Infinity` and `-Infinity`, as MLflow writes them.

    Raises:
        InvalidInput: The server would change a value in silence; the violations name the columns.
    """
    layout = _layout(signature)
    if form is Form.PARQUET:
        return Body(_parquet(batch), PARQUET)
    # Arrow makes new objects of its columns each time that it is asked.
    names, arrays = batch.schema.names, batch.columns
    refuse_losses(names, arrays, layout.types)
    columns = [texts(array, layout.types.get(name, AnyValue())) for name, array in zip(names, arrays, strict=True)]
    if layout.tensors or form is Form.INPUTS:
        rows = _inputs(names, columns, bare=len(layout.types) == 1 and (layout.tensors or layout.bare))
    else:
        rows = _split(names, columns, layout.numbers, batch.num_rows)
    return Body(f"{{{rows}{_params(params)}}}".encode(), JSON)


def _inputs(names: Sequence[str], columns: Sequence[list[str]], *, bare: bool) -> str:
    if bare:
        # Of one column MLflow takes the values alone, whether it has a name or not.
        return f'"inputs":[{",".join(columns[0])}]'
    written = [f"{write_text(name)}:[{','.join(column)}]" for name, column in zip(names, columns, strict=True)]
    return f'"inputs":{{{",".join(written)}}}'


def _split(names: Sequence[str], columns: Sequence[list[str]], numbers: Mapping[str, int], rows: int) -> str:
    known = [write_text(name) for name in names]
    if numbers:
        # Twice, under the number and the text: MLflow takes the one that it knows and leaves out the other. Numbers
        # come first, as inputs without names are taken by their place.
        twice = [place for place, name in enumerate(names) if name in numbers]
        known = [str(numbers[names[place]]) for place in twice] + known
        columns = [columns[place] for place in twice] + list(columns)
    data = "],[".join(map(",".join, zip(*columns, strict=True))) if columns else "],[".join([""] * rows)
    return f'"dataframe_split":{{"columns":[{",".join(known)}],"data":[{f"[{data}]" if rows else ""}]}}'


def _params(params: Mapping[str, object]) -> str:
    given = {name: value for name, value in params.items() if value is not None}
    return f',"params":{json.dumps(given, default=_iso)}' if given else ""


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError("a parameter is of a type that no signature has")


def _parquet(batch: pa.RecordBatch) -> bytes:
    # Not imported by who has no use for it.
    import pyarrow.parquet

    schema = pa.schema([pa.field(one.name, one.type) for one in batch.schema])
    table = pa.Table.from_batches([pa.RecordBatch.from_arrays(batch.columns, schema=schema)])
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink, compression="none", use_dictionary=False, write_statistics=False)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def row_bytes(batch: pa.RecordBatch) -> int:
    """Estimate what a row takes in a request, in bytes, at least 1: the mean, in JSON, the larger of the forms."""
    if not batch.num_rows:
        return 1
    mean: int = sum(_size(array) for array in batch.columns) // batch.num_rows
    return max(1, mean)


def _size(array: pa.Array) -> int:
    types, type = pa.types, array.type
    for is_of, size in _SIZES:
        if is_of(type):
            return size * len(array)
    if types.is_string(type) or types.is_binary(type):
        held: int = pc.sum(pc.binary_length(array).cast(pa.int64())).as_py() or 0
        return 3 * len(array) + (held if types.is_string(type) else held * 4 // 3)
    if types.is_map(type):
        offsets = array.offsets
        first, count = offsets[0].as_py(), offsets[-1].as_py() - offsets[0].as_py()
        return 2 * len(array) + _size(array.keys.slice(first, count)) + _size(array.items.slice(first, count))
    if types.is_struct(type):
        names = sum(len(field.name.encode()) + 3 for field in type)
        return (2 + names) * len(array) + sum(map(_size, array.flatten()))
    return 2 * len(array) + _size(array.flatten())


_SIZES: Final = (
    (pa.types.is_floating, 20),
    (pa.types.is_int64, 20),
    (pa.types.is_integer, 11),
    (pa.types.is_boolean, 6),
    (pa.types.is_timestamp, 29),
)
