"""Signatures: read from MLflow's JSON, written as Arrow schemas and as messages of the contract."""

from prinz_enricher.signature.arrow import arrow_field, arrow_type, fields_schema, input_schema, output_schema
from prinz_enricher.signature.mlflow_json import read_signature
from prinz_enricher.signature.signature_message import from_wire, to_wire
from prinz_enricher.signature.types import (
    AnyValue,
    Field,
    ListOf,
    MapOf,
    Origin,
    Param,
    Record,
    Scalar,
    ScalarKind,
    Signature,
    SignatureError,
    Tensor,
    Type,
)
from prinz_enricher.signature.value import Micros, from_value, to_value

__all__ = [
    "AnyValue",
    "Field",
    "ListOf",
    "MapOf",
    "Micros",
    "Origin",
    "Param",
    "Record",
    "Scalar",
    "ScalarKind",
    "Signature",
    "SignatureError",
    "Tensor",
    "Type",
    "arrow_field",
    "arrow_type",
    "fields_schema",
    "from_value",
    "from_wire",
    "input_schema",
    "output_schema",
    "read_signature",
    "to_value",
    "to_wire",
]
