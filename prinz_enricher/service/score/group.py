"""Calls of one row each that came together and go through the service as one: read, queued, scored and answered."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import structlog

from prinz_enricher.errors import EnricherError, InternalError, InvalidInput
from prinz_enricher.scoring import Job, Scores, Target
from prinz_enricher.service.ports import Call
from prinz_enricher.service.score.answers import write_answers
from prinz_enricher.service.score.telling import tell, tell_refusal, unwritable
from prinz_enricher.service.status import to_status
from prinz_enricher.signature import Field

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the calls of a group have in common.

    Attributes:
        target: The version.
        params: Every parameter of its signature.
        outputs: Those that are wanted.
        form: The field of the requests' input.
    """

    target: Target
    params: Mapping[str, object]
    outputs: Sequence[Field]
    form: str


class Group:
    """Calls that are one job.

    Args:
        asked: What they have in common.
        calls: Them.
        ids: The `request_id` of each, in UTF-8.
        batch: Their rows.
        deadline: The first of their deadlines, which are all about the same; None where they have none.
    """

    __slots__ = ("_asked", "_batch", "_calls", "_deadline", "_ids")

    def __init__(
        self,
        asked: Asked,
        calls: Sequence[Call],
        ids: Sequence[bytes],
        batch: pa.RecordBatch,
        deadline: float | None,
    ) -> None:
        self._asked = asked
        self._calls = calls
        self._ids = ids
        self._batch = batch
        self._deadline = deadline

    def job(self) -> Job:
        """Make the job that answers the calls."""
        asked, calls = self._asked, self._calls
        return Job(
            asked.target,
            self._batch,
            asked.params,
            self._deadline,
            self._done,
            calls[0].cancelled if len(calls) == 1 else self._cancelled,
            nulls=False,
            calls=len(calls),
            apart=self._apart,
        )

    def _cancelled(self) -> bool:
        return all(call.cancelled() for call in self._calls)

    def _apart(self) -> list[Job]:
        """Make a job of each call."""
        return [
            Group(self._asked, [call], [id], self._batch.slice(row, 1), call.deadline).job()
            for row, (call, id) in enumerate(zip(self._calls, self._ids, strict=True))
        ]

    def _done(self, outcome: Scores | EnricherError) -> None:
        try:
            if isinstance(outcome, EnricherError):
                self._fail(outcome)
                return
            answers = self._answers(outcome)
        except EnricherError as error:
            if isinstance(outcome, Scores) and len(self._calls) > 1:
                self._answer_each(outcome)
            else:
                self._fail(error)
        except Exception:
            correlation_id = uuid.uuid4().hex
            log.exception("score failed", model=self._asked.target.name, correlation_id=correlation_id)
            self._fail(InternalError(correlation_id))
        else:
            for call, answer in zip(self._calls, answers, strict=True):
                call.respond(answer)

    def _answer_each(self, scores: Scores) -> None:
        """Answer each call by itself, where the answer to one of them can't be written."""
        for row, job in enumerate(self._apart()):
            job.done(replace(scores, batch=scores.batch.slice(row, 1)))

    def _answers(self, scores: Scores) -> list[bytes]:
        asked = self._asked
        target = asked.target
        # They came together.
        common = tell(target, scores, time.monotonic() - self._calls[0].arrived)
        wanted = scores.batch
        if len(asked.outputs) != wanted.num_columns or asked.outputs is not target.signature.outputs:
            wanted = wanted.select([field.name for field in asked.outputs])
        try:
            return write_answers(wanted, asked.outputs, asked.form, common, self._ids)
        except InvalidInput as error:
            raise unwritable(target, error) from None

    def _fail(self, error: EnricherError) -> None:
        for id in self._ids:
            tell_refusal(self._asked.target, error, id.decode(errors="replace"))
        status = to_status(error)
        for call in self._calls:
            call.fail(status)
