"""Batches: what callers send, checked against a signature and held as Arrow record batches; and the way back."""

from prinz_enricher.batch.arrow_stream import conform, decode_stream, encode_stream, stream_parts
from prinz_enricher.batch.coerce import coerce
from prinz_enricher.batch.columns import decode_columns
from prinz_enricher.batch.dense import decode_dense, dense_inputs, dense_outputs, encode_dense
from prinz_enricher.batch.encode import encode_columns
from prinz_enricher.batch.faults import Faults
from prinz_enricher.batch.outputs import select_outputs
from prinz_enricher.batch.params import decode_params, encode_params
from prinz_enricher.batch.rows import batch_from_rows, batch_to_rows
from prinz_enricher.batch.wire_parts import column_parts, dense_parts

__all__ = [
    "Faults",
    "batch_from_rows",
    "batch_to_rows",
    "coerce",
    "column_parts",
    "conform",
    "decode_columns",
    "decode_dense",
    "decode_params",
    "decode_stream",
    "dense_inputs",
    "dense_outputs",
    "dense_parts",
    "encode_columns",
    "encode_dense",
    "encode_params",
    "encode_stream",
    "select_outputs",
    "stream_parts",
]
