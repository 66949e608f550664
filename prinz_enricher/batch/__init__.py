"""Batches: what callers send, checked against a signature and held as Arrow record batches; and the way back."""

from prinz_enricher.batch.arrow_stream import caller_batch as caller_batch
from prinz_enricher.batch.arrow_stream import conform as conform
from prinz_enricher.batch.arrow_stream import decode_stream as decode_stream
from prinz_enricher.batch.arrow_stream import encode_stream as encode_stream
from prinz_enricher.batch.arrow_stream import stream_parts as stream_parts
from prinz_enricher.batch.coerce_arrays import coerce as coerce
from prinz_enricher.batch.columns import column_parts as column_parts
from prinz_enricher.batch.columns import decode_columns as decode_columns
from prinz_enricher.batch.columns import encode_columns as encode_columns
from prinz_enricher.batch.columns import has_long_values as has_long_values
from prinz_enricher.batch.dense import decode_dense as decode_dense
from prinz_enricher.batch.dense import dense_inputs as dense_inputs
from prinz_enricher.batch.dense import dense_parts as dense_parts
from prinz_enricher.batch.dense import encode_dense as encode_dense
from prinz_enricher.batch.layout import select_outputs as select_outputs
from prinz_enricher.batch.python_rows import batch_from_rows as batch_from_rows
from prinz_enricher.batch.python_rows import batch_to_rows as batch_to_rows
from prinz_enricher.batch.python_rows import decode_params as decode_params
from prinz_enricher.batch.python_rows import encode_params as encode_params
from prinz_enricher.batch.violation import Violations as Violations
