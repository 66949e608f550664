"""The pinned wire form of each type: what this file holds, every client relies on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prinz_enricher.batch import decode_columns, encode_columns
from prinz_enricher.contract import signature_pb2, value_pb2
from prinz_enricher.errors import InvalidInput
from prinz_enricher.signature import from_wire
from tests.golden.write_vectors import CASES, PATH, vector

PINNED: list[dict[str, Any]] = json.loads(PATH.read_text(encoding="utf-8"))


def test_each_case_is_pinned_once() -> None:
    """The file has the cases of the script that writes it, in their order."""
    assert [one["name"] for one in PINNED] == [case[0] for case in CASES]
    assert {one["accepted"] for one in PINNED} == {True, False}


@pytest.mark.parametrize(("pinned", "case"), list(zip(PINNED, CASES, strict=True)), ids=[one["name"] for one in PINNED])
def test_the_wire_form_is_the_pinned_one(pinned: dict[str, Any], case: Any) -> None:
    """Signature, digest, bytes, rows and violations are those of the file."""
    assert json.loads(json.dumps(vector(*case))) == pinned


@pytest.mark.parametrize("pinned", PINNED, ids=[one["name"] for one in PINNED])
def test_the_pinned_bytes_are_decoded_as_pinned(pinned: dict[str, Any]) -> None:
    """The file alone tells what comes of its bytes."""
    signature = from_wire(signature_pb2.Signature.FromString(bytes.fromhex(pinned["signature"])))
    assert signature.digest == pinned["digest"]
    message = value_pb2.ColumnBatch.FromString(bytes.fromhex(pinned["column_batch"]))
    if pinned["accepted"]:
        batch = decode_columns(message, signature)
        assert encode_columns(batch).SerializeToString(deterministic=True).hex() == pinned["encoded_again"]
        return
    with pytest.raises(InvalidInput) as caught:
        decode_columns(message, signature)
    assert [{"field": one.field, "description": one.description} for one in caught.value.violations] == pinned[
        "violations"
    ]
