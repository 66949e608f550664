"""Signatures: read from MLflow's JSON, written as Arrow schemas and as messages of the contract."""

from prinz_enricher.signature.arrow import arrow_field as arrow_field
from prinz_enricher.signature.arrow import arrow_type as arrow_type
from prinz_enricher.signature.arrow import fields_schema as fields_schema
from prinz_enricher.signature.arrow import input_schema as input_schema
from prinz_enricher.signature.arrow import output_schema as output_schema
from prinz_enricher.signature.mlflow_json import read_signature as read_signature
from prinz_enricher.signature.signature_message import from_wire as from_wire
from prinz_enricher.signature.signature_message import to_wire as to_wire
from prinz_enricher.signature.types import AnyValue as AnyValue
from prinz_enricher.signature.types import Field as Field
from prinz_enricher.signature.types import ListOf as ListOf
from prinz_enricher.signature.types import MapOf as MapOf
from prinz_enricher.signature.types import Origin as Origin
from prinz_enricher.signature.types import Param as Param
from prinz_enricher.signature.types import Record as Record
from prinz_enricher.signature.types import Scalar as Scalar
from prinz_enricher.signature.types import ScalarKind as ScalarKind
from prinz_enricher.signature.types import Signature as Signature
from prinz_enricher.signature.types import SignatureError as SignatureError
from prinz_enricher.signature.types import Tensor as Tensor
from prinz_enricher.signature.types import Type as Type
from prinz_enricher.signature.types import type_text as type_text
from prinz_enricher.signature.value import Micros as Micros
from prinz_enricher.signature.value import from_value as from_value
from prinz_enricher.signature.value import to_value as to_value
