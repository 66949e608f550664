"""Models, a pool and a service for tests of what is scored together: what a row comes to shows all of its bits."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.config import AccessRule, QuotaSettings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2
from prinz_enricher.errors import EnricherError, InvalidRequest, ModelNotFound
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Job, ScoreResult, Status, Target, WorkerState
from prinz_enricher.security.access import AccessRules, Method
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.quota import Quotas
from prinz_enricher.service.calls import Call
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.fair_threads import FairThreads
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.service.score.request_grouping import RequestGrouper
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, fields_schema
from prinz_enricher.telemetry.series import Series, Usage
from tests.support.callback_call import CallbackCall

KINDS = {
    ScalarKind.DOUBLE: "doubles",
    ScalarKind.FLOAT: "floats",
    ScalarKind.LONG: "int64s",
    ScalarKind.INTEGER: "int32s",
    ScalarKind.BOOLEAN: "bools",
    ScalarKind.STRING: "strings",
}


def fields_of(kind: ScalarKind, *names: str) -> tuple[Field, ...]:
    """Make fields of one kind."""
    return tuple(Field(name, Scalar(kind)) for name in names)


def target_of(signature: Signature, name: str = "m", version: str = "1") -> Target:
    """Make a target."""
    return Target(name, version, "http://registry", signature)


DOUBLES = target_of(Signature(fields_of(ScalarKind.DOUBLE, "a", "b", "c"), fields_of(ScalarKind.DOUBLE, "y", "z")))


NAMES = ("a", "b", "c")
"""The inputs of `DOUBLES`."""


def score(target: Target, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Make outputs of each row of which every bit depends on every bit of the row, and on the version."""
    rows = []
    for row in range(batch.num_rows):
        digest = hashlib.sha256(f"{target.name} {target.version}".encode())
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            # By the bits: of floats a NaN has many.
            value = column[row].as_py()
            one = column.slice(row, 1).take(pa.array([0]))
            numbers = pa.types.is_floating(column.type) and value is not None
            digest.update(name.encode() + (one.to_numpy().tobytes() if numbers else repr(value).encode()))
        rows.append(digest.digest())
    schema = fields_schema(target.signature.outputs)
    columns = []
    for place, of in enumerate(schema):
        seeds = [hashlib.sha256(row + bytes([place])).digest() for row in rows]
        columns.append(_column(of.type, seeds))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(type: pa.DataType, seeds: Sequence[bytes]) -> pa.Array:
    if pa.types.is_string(type):
        return pa.array([seed[: seed[0] % 4].hex() for seed in seeds], type)
    if pa.types.is_boolean(type):
        return pa.array([seed[0] % 2 == 1 for seed in seeds], type)
    width = type.bit_width // 8
    dtype = np.dtype(type.to_pandas_dtype())
    return pa.array(np.frombuffer(b"".join(seed[:width] for seed in seeds), dtype), type)


@dataclass
class HandPool:
    """A pool that keeps its jobs, or answers them at once.

    Attributes:
        answers: Whether it answers at once.
        told: Why it refuses.
        jobs: Those that it took.
        asked: The rows of which it was asked whether it would take them.
    """

    answers: bool = True
    told: EnricherError | None = None
    raises: Exception | None = None
    jobs: list[Job] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)

    def submit(self, job: Job) -> None:
        """Take a job."""
        self.jobs.append(job)
        if self.raises is not None:
            raise self.raises
        if self.answers:
            answer(job)

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Refuse as the test says."""
        self.asked.append(rows)
        return self.told

    def change(self, settings: PoolSettings) -> None:
        """Change nothing."""

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Load nothing."""

    def used(self) -> list[Target]:
        """Have nothing."""
        return []

    def retain(self, targets: Collection[Target]) -> None:
        """Unload nothing."""

    def status(self, target: Target) -> Status:
        """Tell that all is there."""
        return Status(WorkerState.AVAILABLE)

    def usage(self) -> Usage:
        """Have nothing."""
        return ()

    def close(self, grace: float) -> None:
        """End nothing."""


def answer(job: Job) -> None:
    """Score a job."""
    job.done(ScoreResult(score(job.target, job.batch), 0.001, 0.002, job.batch.num_rows))


class Service(EnricherService):
    """The service with models of a test, and without a catalog.

    Attributes:
        models: By name, the target that is served now.
    """

    def __init__(
        self,
        pool: HandPool,
        *targets: Target,
        limits: Limits | None = None,
        shared: int = 1024,
        rules: Sequence[AccessRule] = (),
        quotas: Quotas | None = None,
    ) -> None:
        self.models = {target.name: target for target in targets}
        self._pool = pool
        self._limits = limits or Limits(10_000, 1 << 20)
        self._readers = FairThreads(3, "read-request")
        fake: Any = self
        self._targets = fake
        self._quotas = quotas or Quotas(QuotaSettings())
        self.rules = AccessRules(rules)
        self._series = Series()
        self._log = None
        self._grouper = RequestGrouper(pool, fake, self._quotas, shared, self._series)

    def resolve(
        self, model: model_pb2.ModelRef, principal: Principal | None, method: Method, rules: AccessRules | None = None
    ) -> Any:
        """Return what is served under a name."""
        if not model.name:
            raise InvalidRequest("model.name", "is required")
        if model.name not in self.models:
            raise ModelNotFound(model.name)
        (rules or self.rules).check(principal, method, model.name)
        return self.models[model.name]

    def of(self, version: Any) -> Target:
        """Give the target of a version, which is the same here."""
        target: Target = version
        return target

    def alone(self, call: Call) -> None:
        """Score a call without others."""
        self._answer(call, self._score_small)


@dataclass
class Asked:
    """A call of a test, with its answers."""

    call: Call
    answers: list[bytes | status_pb2.Status] = field(default_factory=list)
    gone: bool = False

    @property
    def outcome(self) -> Any:
        """Its one answer: a response without its timing, serialised, or a status."""
        [told] = self.answers
        if isinstance(told, status_pb2.Status):
            return ("status", told.SerializeToString(deterministic=True))
        response = pb.ScoreResponse.FromString(told)
        assert response.timing.HasField("total")
        response.ClearField("timing")
        return ("response", response.SerializeToString(deterministic=True))

    @property
    def response(self) -> pb.ScoreResponse:
        """Its one answer, which is a response."""
        [told] = self.answers
        assert isinstance(told, bytes), told
        return pb.ScoreResponse.FromString(told)

    @property
    def reason(self) -> str:
        """The reason of its one answer, which is an error."""
        [told] = self.answers
        assert isinstance(told, status_pb2.Status), told
        info = error_details_pb2.ErrorInfo()
        told.details[0].Unpack(info)
        return str(info.reason)


def ask(request: pb.ScoreRequest | bytes, deadline: float | None = None) -> Asked:
    """Make a call of a request."""
    data = request if isinstance(request, bytes) else request.SerializeToString()
    answers: list[bytes | status_pb2.Status] = []

    def is_gone() -> bool:
        return asked.gone

    call = CallbackCall("Score", data, time.monotonic(), deadline, answers.append, answers.append, is_gone)
    asked = Asked(call, answers)
    return asked


def columns_request(
    values: Mapping[str, float | Sequence[float]],
    *,
    model: str = "m",
    request_id: str = "",
    outputs: Sequence[str] = (),
    digest: str = "",
) -> pb.ScoreRequest:
    """Make a request of a row of doubles in columns, or of several rows where each name has several values."""
    held = {name: [value] if isinstance(value, float) else value for name, value in values.items()}
    columns = [value_pb2.Column(name=name, doubles={"values": some}) for name, some in held.items()]
    return pb.ScoreRequest(
        model=model_pb2.ModelRef(name=model),
        columns=value_pb2.ColumnBatch(num_rows=max(map(len, held.values()), default=1), columns=columns),
        request_id=request_id,
        outputs=outputs,
        signature_digest=digest,
    )


def dense_request(
    values: Sequence[float], target: Target = DOUBLES, *, request_id: str = "", digest: str | None = None
) -> pb.ScoreRequest:
    """Make a request of the rows that the values make, one after the other, in the dense form."""
    return pb.ScoreRequest(
        model=model_pb2.ModelRef(name=target.name),
        dense=value_pb2.DenseBatch(
            num_rows=max(1, len(values) // len(target.signature.inputs)),
            values=struct.pack(f"<{len(values)}d", *values),
        ),
        request_id=request_id,
        signature_digest=target.signature.digest if digest is None else digest,
    )


def handled(service: Service, *requests: pb.ScoreRequest | bytes, deadline: float | None = None) -> list[Asked]:
    """Have the service take requests at once."""
    asked = [ask(request, deadline) for request in requests]
    service.handle([one.call for one in asked])
    return asked


def row(number: float) -> dict[str, float]:
    """Make a row that is no other's."""
    return {"a": number, "b": -number, "c": number / 3}


def rows(*numbers: float) -> dict[str, list[float]]:
    """Make rows that are no others'."""
    return {name: [row(number)[name] for number in numbers] for name in NAMES}


def outcomes_alone(requests: Sequence[bytes], *targets: Target) -> list[Any]:
    """Give what each request comes to where it is scored without others, by a service that knows none before it."""
    outcomes = []
    for request in requests:
        asked = ask(request)
        Service(HandPool(), *targets).alone(asked.call)
        outcomes.append(asked.outcome)
    return outcomes
