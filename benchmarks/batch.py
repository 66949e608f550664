"""µs per call of what the service does with a batch: decode, check, to numpy, and encode an answer.

Large batches are read and written as in the service: their values are viewed, and written from where they lie. Beside
each stands the floor in the same run: `np.frombuffer` and a copy of as many values.
"""

from __future__ import annotations

import argparse
import timeit
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from prinz_enricher.batch import (
    batch_from_rows,
    column_parts,
    decode_columns,
    decode_dense,
    decode_stream,
    dense_parts,
    encode_columns,
    encode_dense,
    encode_stream,
    stream_parts,
)
from prinz_enricher.batch.wire import Part, view_columns, view_dense
from prinz_enricher.contract import value_pb2
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature

DOUBLE, STRING = Scalar(ScalarKind.DOUBLE), Scalar(ScalarKind.STRING)
LARGE = 256 * 1024
"""Bytes from which the service views a request's values."""

OUTPUT = (Field("prediction", DOUBLE),)
WINE = Signature(tuple(Field(f"feature_{index}", DOUBLE) for index in range(11)), OUTPUT)
FRAUD = Signature(
    (*(Field(name, STRING) for name in ("gender", "category", "merchant")), Field("amount", DOUBLE)), OUTPUT
)


def microseconds(call: Callable[[], object]) -> float:
    """Time a call: the best of five runs, each of about a tenth of a second."""
    timer = timeit.Timer(call)
    once = max(timer.timeit(1), 1e-6)
    number = max(1, min(20_000, int(0.1 / once)))
    return min(timer.repeat(5, number)) / number * 1e6


def to_numpy(batch: pa.RecordBatch, signature: Signature) -> list[np.ndarray]:
    """Give numpy's view of each column, text as objects; one row of doubles as one array."""
    if batch.num_rows == 1 and signature is WINE:
        return [batch.to_tensor().to_numpy()]
    return [array.to_numpy(zero_copy_only=False) for array in batch.columns]


def doubles(rows: int) -> pa.RecordBatch:
    """Make rows of eleven doubles."""
    values = np.random.default_rng(7).random((11, rows))
    return batch_from_rows({field.name: values[place] for place, field in enumerate(WINE.inputs)}, WINE.inputs)


def texts(rows: int) -> pa.RecordBatch:
    """Make rows of three short texts and a double."""
    words = np.random.default_rng(7).integers(0, 50, (3, rows))
    columns: dict[str, Sequence[object]] = {
        field.name: [f"value_{word}" for word in words[place].tolist()] for place, field in enumerate(FRAUD.inputs[:3])
    }
    return batch_from_rows({**columns, "amount": words[0].astype(np.float64)}, FRAUD.inputs)


def measure(name: str, signature: Signature, batch: pa.RecordBatch) -> None:
    """Print a line for each form of a batch."""
    rows = batch.num_rows
    answer = pa.record_batch({"prediction": np.random.default_rng(7).random(rows)})
    columns = encode_columns(batch).SerializeToString()
    arrow = encode_stream(batch).to_pybytes()
    raw = np.ascontiguousarray(np.random.default_rng(7).random((rows, batch.num_columns))).tobytes()
    floor = microseconds(lambda: np.frombuffer(raw, np.float64).reshape(rows, -1))
    copied = microseconds(lambda: np.frombuffer(raw, np.float64).reshape(rows, -1).copy())

    def line(form: str, decode: Callable[[], pa.RecordBatch], encode: Callable[[], Sequence[Part] | None]) -> None:
        decoding = microseconds(lambda: to_numpy(decode(), signature))
        encoding = microseconds(lambda: b"".join(memoryview(part) for part in encode() or ()))
        both = decoding + encoding
        print(
            f"{name:17} {rows:>9,} {form:8} decode {decoding:>11,.1f}  encode {encoding:>8,.1f}  all {both:>11,.1f}  "
            f"floor {floor:>5.1f}  copy {copied:>9,.1f}  all/copy {both / copied:>7.2f}"
        )

    line("columns", lambda: read_columns(columns, signature), lambda: column_parts(answer))
    line("arrow", lambda: decode_stream(arrow, signature), lambda: stream_parts(answer))
    dense = encode_dense(batch)
    if dense is not None:
        wire = dense.SerializeToString()
        line("dense", lambda: read_dense(wire, signature), lambda: dense_parts(answer))


def read_columns(data: bytes, signature: Signature) -> pa.RecordBatch:
    """Decode columns as the service does."""
    if len(data) <= LARGE:
        return decode_columns(value_pb2.ColumnBatch.FromString(data), signature)
    rest, views = view_columns(memoryview(data))
    return decode_columns(value_pb2.ColumnBatch.FromString(rest), signature, views.columns)


def read_dense(data: bytes, signature: Signature) -> pa.RecordBatch:
    """Decode dense rows as the service does."""
    if len(data) <= LARGE:
        return decode_dense(value_pb2.DenseBatch.FromString(data), signature)
    rest, views = view_dense(memoryview(data))
    return decode_dense(value_pb2.DenseBatch.FromString(rest), signature, views.data)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 100, 10_000, 1_000_000])
    for rows in parser.parse_args().rows:
        measure("11 doubles", WINE, doubles(rows))
        measure("3 texts, 1 double", FRAUD, texts(rows))


if __name__ == "__main__":
    main()
