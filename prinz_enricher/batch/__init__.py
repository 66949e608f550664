"""Batches: what callers send, checked against a signature and held as Arrow record batches; and the way back."""

from prinz_enricher.batch.arrow_stream import caller_batch, conform, decode_stream, encode_stream, stream_parts
from prinz_enricher.batch.coerce_arrays import coerce
from prinz_enricher.batch.columns import column_parts, decode_columns, encode_columns
from prinz_enricher.batch.dense import decode_dense, dense_inputs, dense_parts, encode_dense
from prinz_enricher.batch.layout import select_outputs
from prinz_enricher.batch.python_rows import batch_from_rows, batch_to_rows, decode_params, encode_params
from prinz_enricher.batch.violation import Violations

__all__ = [
    "Violations",
    "batch_from_rows",
    "batch_to_rows",
    "caller_batch",
    "coerce",
    "column_parts",
    "conform",
    "decode_columns",
    "decode_dense",
    "decode_params",
    "decode_stream",
    "dense_inputs",
    "dense_parts",
    "encode_columns",
    "encode_dense",
    "encode_params",
    "encode_stream",
    "select_outputs",
    "stream_parts",
]
