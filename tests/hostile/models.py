"""The models of the attacked service, and what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import pyarrow as pa

from prinz_enricher.catalog import CatalogVersion, Snapshot, Union
from prinz_enricher.catalog.snapshot import Assembler, ModelFile
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.registry.entities import READY, ModelVersion, RegisteredModel
from prinz_enricher.scoring.ports import Target
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature

MIB: Final = 1024 * 1024
MESSAGE_BYTES: Final = 16 * MIB
"""Bytes of a request at most."""

INFLIGHT_BYTES: Final = 256 * MIB
"""Bytes in flight at most."""

TOKEN: Final = "a-token-of-the-well-behaved"  # noqa: S105 - of a test
CLAIMS: Final = b'{"iss":"https://id.example.com/","aud":"prinz-enricher","sub":"eve","exp":4102444800}'

REGISTRY: Final = "http://registry.invalid"
_DOUBLE, _LONG, _STRING = (Scalar(kind) for kind in (ScalarKind.DOUBLE, ScalarKind.LONG, ScalarKind.STRING))
SIGNATURES: Final = {
    "echo": Signature((Field("x", _DOUBLE),), (Field("y", _DOUBLE),)),
    "text": Signature((Field("length", _LONG),), (Field("text", _STRING),)),
}


class StillCatalog(Union):
    """A catalog that never changes."""

    def __init__(self) -> None:
        super().__init__([])
        files = {(name, "1"): ModelFile(signature, ("python_function",)) for name, signature in SIGNATURES.items()}
        models = [RegisteredModel(name, "", {}, {"champion": "1"}, 0, 0) for name in SIGNATURES]
        # Each row alone: a batch of large answers would be in the memory of this process, with the model.
        versions = [
            ModelVersion(name, "1", "", {"prinz.batching": "off"} if name == "text" else {}, READY, "", "", "", 0, 0)
            for name in SIGNATURES
        ]
        content: Snapshot = Assembler().assemble(models, versions, files)
        self.publish(content)

    def url_of(self, version: CatalogVersion) -> str:
        """Return the one registry there is."""
        return REGISTRY

    def age(self) -> float:
        """Return how old it is."""
        return 0.0


def function_of(target: Target) -> Callable[[pa.RecordBatch, Mapping[str, object]], pa.RecordBatch]:
    """Return the function that scores with a model."""
    return _echo if target.name == "echo" else _text


def _echo(batch: pa.RecordBatch, _: Mapping[str, object]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([batch.column(0)], ["y"])


def _text(batch: pa.RecordBatch, _: Mapping[str, object]) -> pa.RecordBatch:
    return _text_of(tuple(batch.column(0).to_pylist()))


@lru_cache
def _text_of(lengths: tuple[int, ...]) -> pa.RecordBatch:
    # Once: a model does not run in the process that is attacked.
    return pa.RecordBatch.from_arrays([pa.array(["x" * n for n in lengths], pa.utf8())], ["text"])


def one_row() -> bytes:
    """Return a request for the echo of one row."""
    request = pb.ScoreRequest()
    request.model.name = "echo"
    request.columns.num_rows = 1
    request.columns.columns.add(name="x").doubles.values.append(1.5)
    return request.SerializeToString()


def one_text(length: int) -> bytes:
    """Return a request whose answer has so many bytes."""
    request = pb.ScoreRequest()
    request.model.name = "text"
    request.columns.num_rows = 1
    request.columns.columns.add(name="length").int64s.values.append(length)
    return request.SerializeToString()
