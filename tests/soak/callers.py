"""Those who call: in every way there is, with rows of all sizes, right and wrong ones, patient and not."""

from __future__ import annotations

import asyncio
import itertools
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Final

import grpc
import numpy as np
import pyarrow as pa
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.client import ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc
from prinz_enricher.errors import InvalidInput
from tests.soak import models
from tests.soak.ledger import Answered, Failed, Question
from tests.soak.service import MAX_ROWS, TIMEOUT, Service

PAUSE: Final = 0.02
"""Seconds between two calls of a caller, at most."""

LARGE: Final = 50_000
_NUMBERED: Final = itertools.count(1)
_DETAILS: Final = "grpc-status-details-bin"


class Caller:
    """A thread that calls a service until it is stopped, in a way that it chooses anew each time."""

    def __init__(self, service: Service, seed: int) -> None:
        self._service = service
        self._ledger = service.ledger
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"caller-{service.front}-{seed}", daemon=True)
        self._ways: list[tuple[int, Callable[[], None]]] = [
            (24, self._client), (24, self._raw), (20, self._arrow), (20, self._coalesced), (4, self._stream),
            (3, self._large), (8, self._zero), (10, self._wrong), (10, self._leave), (10, self._short),
            (10, self._remote), (3, self._look), (1, self._connect),
        ]  # fmt: skip

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the call under way."""
        self._ended.set()

    def join(self) -> None:
        """Wait for its end."""
        self._thread.join(2 * TIMEOUT)
        if self._thread.is_alive():
            self._ledger.fail(f"{self._thread.name} waits for an answer that does not come")

    def _run(self) -> None:
        weights, ways = zip(*self._ways, strict=True)
        with ExitStack() as stack:
            self._plain = stack.enter_context(self._service.client(coalesce=False))
            self._sharing = stack.enter_context(self._service.client(coalesce=True))
            self._stub = stub_of(stack.enter_context(self._service.channel()))
            while not self._ended.wait(self._chance.uniform(0.0, PAUSE)):
                (way,) = self._chance.choices(ways, weights)
                try:
                    way()
                except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
                    self._ledger.fail(f"{way.__name__} raised {type(error).__name__}: {error}")

    def _numbers(self, how: str, most: int = 20, model: str = "", **more: Any) -> Question:
        """Make a question of some rows to a model of numbers."""
        model = model or self._chance.choice((models.MOVING, models.MOVING, models.MOVING, models.SLOW))
        rows = models.numbers(self._chance.randint(1, most), self._chance)
        return Question(how, model, rows, **{"alias": self._alias(model), "request_id": next_id(), **more})

    def _typed(self, how: str, most: int = 10, **more: Any) -> Question:
        return Question(
            how, models.TEXTS, models.typed(self._chance.randint(1, most), self._chance, 0.01),
            **{"request_id": next_id(), **more},
        )  # fmt: skip

    def _any(self, how: str) -> Question:
        return self._typed(how) if self._chance.random() < 0.5 else self._numbers(how)

    def _alias(self, model: str) -> str:
        return models.ALIAS if model == models.MOVING else ""

    def _client(self) -> None:
        self._by_client(self._any("client"), self._plain)

    def _coalesced(self) -> None:
        # Several threads, so that some share.
        def score() -> None:
            rows = models.typed(1, self._chance, 0.01)
            self._by_client(Question("coalesced", models.SHARED, rows, counted=False), self._sharing)

        threads = [threading.Thread(target=score) for _ in range(self._chance.randint(2, 6))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _by_client(self, question: Question, client: Any) -> None:
        began = time.monotonic()
        name = f"{question.model}@{question.alias}" if question.alias else question.model
        forms = (question.rows.to_pylist, question.rows.to_pydict, lambda: question.rows)
        rows = question.rows.to_pylist() if not question.counted else self._chance.choice(forms)()
        try:
            scores = client.score(name, rows, request_id=question.request_id)
        except (ServiceError, InvalidInput) as error:
            self._ledger.judge(question, began, failed_client(error))
        else:
            self._ledger.judge(question, began, Answered(scores.version, scores.batch.column(0)))

    def _raw(self) -> None:
        self._ask(columns_request, self._numbers("columns"))

    def _arrow(self) -> None:
        self._ask(arrow_request, self._any("arrow"))

    def _zero(self) -> None:
        way = self._chance.choice((columns_request, arrow_request))
        question = self._numbers("no rows", model=models.MOVING)
        self._ask(way, replace(question, rows=question.rows.slice(0, 0)))

    def _large(self) -> None:
        self._ask(arrow_request, self._numbers("large", LARGE, model=models.MOVING))

    def _remote(self) -> None:
        self._ask(self._chance.choice((columns_request, arrow_request)), self._numbers("remote", model=models.REMOTE))

    def _short(self) -> None:
        question = self._numbers("short of time", model=models.SLOW, hurried=True)
        self._ask(columns_request, question, timeout=self._chance.choice((0.001, 0.02, 0.06, 0.2)))

    def _leave(self) -> None:
        """Cancel a call, or a stream of some, before, while or after it is answered."""
        question = self._numbers("cancelled", self._chance.choice((20, LARGE // 10)), model=models.SLOW)
        began = time.monotonic()
        if self._chance.random() < 0.3:
            self._leave_stream(question)
            return
        call = self._stub.Score.future(arrow_request(question), timeout=TIMEOUT)
        self._ended.wait(self._chance.choice((0.0, 0.002, 0.03, 0.1)))
        if call.cancel():
            self._ledger.left(question)
        else:
            self._judge(question, began, call)

    def _leave_stream(self, question: Question) -> None:
        questions = [replace(question, request_id=next_id()) for _ in range(8)]
        call = self._stub.ScoreStream(iter(stream_requests(questions)), timeout=TIMEOUT)
        began, unanswered = time.monotonic(), dict(enumerate(questions))
        try:
            for response in itertools.islice(call, self._chance.randint(0, 4)):
                self._ledger.judge(unanswered.pop(response.sequence), began, of_stream(response))
        finally:
            call.cancel()
        for one in unanswered.values():
            self._ledger.left(one)

    def _stream(self) -> None:
        """Send many messages, some of them wrong, and now and then over a while; each has one answer."""
        slowly = self._chance.random() < 0.1
        questions = [
            self._wrong_question("stream") if self._chance.random() < 0.1 else (self._any("stream"), arrow_request)
            for _ in range(self._chance.randint(1, 60))
        ]
        sent: queue.SimpleQueue[pb.ScoreStreamRequest | None] = queue.SimpleQueue()
        unanswered: dict[int, tuple[Question, float]] = {}
        call = self._stub.ScoreStream(iter(sent.get, None), timeout=TIMEOUT)
        try:
            for place, (question, make) in enumerate(questions):
                unanswered[place] = (question, time.monotonic())
                sent.put(pb.ScoreStreamRequest(sequence=place, request=make(question)))
                if slowly:
                    self._ended.wait(0.1)
            sent.put(None)
            for response in call:
                question, began = unanswered.pop(response.sequence)
                self._ledger.judge(question, began, of_stream(response))
        except grpc.RpcError as error:
            for question, began in unanswered.values():
                self._ledger.judge(question, began, failed(error))
            unanswered = {}
        finally:
            sent.put(None)
        if unanswered:
            self._ledger.fail(f"a stream ended without {len(unanswered)} of {len(questions)} answers")

    def _wrong(self) -> None:
        question, make = self._wrong_question("wrong")
        self._ask(make, question)

    def _wrong_question(self, how: str) -> tuple[Question, Callable[[Question], pb.ScoreRequest]]:
        """Return a question with something wrong in it, which its reason says, and its form."""
        numbers, typed = self._numbers(how, model=models.MOVING), self._typed(how)
        reason, question, make = self._chance.choice(
            (
                ("INVALID_INPUT", replace(typed, rows=typed.rows.drop_columns(["number"])), arrow_request),
                ("INVALID_INPUT", numbers, _with_unknown_column),
                ("INVALID_INPUT", numbers, _with_texts),
                ("INVALID_INPUT", numbers, _with_unknown_output),
                ("INVALID_INPUT", numbers, _with_unknown_parameter),
                ("INVALID_INPUT", numbers, _with_broken_stream),
                ("BATCH_TOO_LARGE", replace(numbers, rows=_many_rows()), arrow_request),
                ("SIGNATURE_CHANGED", numbers, _with_other_digest),
                ("MODEL_NOT_FOUND", replace(numbers, model="nobody", counted=False), arrow_request),
                ("VERSION_NOT_FOUND", replace(numbers, counted=False), _of_other_version),
                ("ALIAS_NOT_FOUND", replace(numbers, alias="nobody", counted=False), arrow_request),
                ("INVALID_REQUEST", replace(numbers, model="", alias="", counted=False), arrow_request),
            )
        )
        return replace(question, reason=reason), make

    def _look(self) -> None:
        """List, describe, and see that what must be there is."""
        listed = {model.name for model in self._plain.list_models(full=self._chance.random() < 0.5)}
        if missing := {*models.NAMES} - listed:
            self._ledger.fail(f"ListModels lacks {sorted(missing)}")
        reference, signature = self._plain.signature(f"{models.MOVING}@{models.ALIAS}")
        if [field.name for field in signature.inputs] != models.NUMBERS.names or reference.version not in {"1", "2"}:
            self._ledger.fail(f"GetSignature says {reference} and {signature}")

    def _connect(self) -> None:
        """Call on a new connection."""
        with self._service.channel() as channel:
            self._ask(columns_request, self._numbers("new connection"), stub=stub_of(channel))

    def _ask(
        self,
        make: Callable[[Question], pb.ScoreRequest],
        question: Question,
        timeout: float = TIMEOUT,
        stub: Any = None,
    ) -> None:
        began = time.monotonic()
        call = (stub or self._stub).Score.future(make(question), timeout=timeout)
        self._judge(question, began, call)

    def _judge(self, question: Question, began: float, call: Any) -> None:
        error = call.exception()
        if error is not None:
            self._ledger.judge(question, began, failed(error))
            return
        response = call.result()
        if response.request_id != question.request_id:
            self._ledger.fail(f"request id {response.request_id!r} came for {question.request_id!r}", wrong=True)
        self._ledger.judge(question, began, answered(response))


class AsyncCaller(Caller):
    """A thread with an event loop, whose tasks share messages; some of them leave."""

    def _run(self) -> None:
        asyncio.run(self._call())

    async def _call(self) -> None:
        async with self._service.async_client() as client:
            while not self._ended.is_set():
                tasks = [asyncio.create_task(self._score(client)) for _ in range(self._chance.randint(1, 24))]
                if self._chance.random() < 0.1:
                    await asyncio.sleep(self._chance.choice((0.0, 0.005)))
                    tasks[0].cancel()
                for result in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(result, Exception):
                        self._ledger.fail(f"a task raised {type(result).__name__}: {result}")
                await asyncio.sleep(self._chance.uniform(0.0, 4 * PAUSE))

    async def _score(self, client: Any) -> None:
        question = Question("asyncio", models.SHARED, models.typed(1, self._chance, 0.01), counted=False)
        began = time.monotonic()
        try:
            scores = await client.score(question.model, question.rows.to_pylist())
        except (ServiceError, InvalidInput) as error:
            self._ledger.judge(question, began, failed_client(error))
        except asyncio.CancelledError:
            self._ledger.left(question)
            raise
        else:
            self._ledger.judge(question, began, Answered(scores.version, scores.batch.column(0)))


def next_id() -> str:
    """Return a request id that no other call has."""
    return f"soak-{next(_NUMBERED)}"


def stub_of(channel: grpc.Channel) -> Any:
    """Return the generated stub."""
    return enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated


def _empty_request(question: Question) -> pb.ScoreRequest:
    request = pb.ScoreRequest(request_id=question.request_id)
    request.model.name = question.model
    if question.alias:
        request.model.alias = question.alias
    return request


def columns_request(question: Question) -> pb.ScoreRequest:
    """Return a request of numbers in columns."""
    request = _empty_request(question)
    request.columns.num_rows = question.rows.num_rows
    for name in question.rows.schema.names:
        column = request.columns.columns.add(name=name)
        # Also where there are no rows.
        column.doubles.SetInParent()
        column.doubles.values.extend(question.rows.column(name).to_pylist())
    return request


def arrow_request(question: Question) -> pb.ScoreRequest:
    """Return a request whose rows are an Arrow stream."""
    request = _empty_request(question)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, question.rows.schema) as writer:
        writer.write_batch(question.rows)
    request.arrow_stream = sink.getvalue().to_pybytes()
    return request


def stream_requests(questions: Sequence[Question]) -> Iterator[pb.ScoreStreamRequest]:
    """Yield the messages of a stream."""
    for place, question in enumerate(questions):
        yield pb.ScoreStreamRequest(sequence=place, request=arrow_request(question))


def _with_unknown_column(question: Question) -> pb.ScoreRequest:
    request = columns_request(question)
    request.columns.columns.add(name="w").doubles.values.extend([1.0] * question.rows.num_rows)
    return request


def _with_texts(question: Question) -> pb.ScoreRequest:
    request = columns_request(question)
    request.columns.columns[0].strings.values.extend(["1"] * question.rows.num_rows)
    return request


def _with_unknown_output(question: Question) -> pb.ScoreRequest:
    request = columns_request(question)
    request.outputs.append("w")
    return request


def _with_unknown_parameter(question: Question) -> pb.ScoreRequest:
    request = columns_request(question)
    request.params["k"].int64_value = 1
    return request


def _with_broken_stream(question: Question) -> pb.ScoreRequest:
    request = arrow_request(question)
    request.arrow_stream = request.arrow_stream[: len(request.arrow_stream) // 2]
    return request


def _with_other_digest(question: Question) -> pb.ScoreRequest:
    request = columns_request(question)
    request.signature_digest = "0" * 32
    return request


def _of_other_version(question: Question) -> pb.ScoreRequest:
    request = columns_request(question)
    request.model.version = "99"
    return request


def _many_rows() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([np.zeros(MAX_ROWS + 1)] * 2, schema=models.NUMBERS)


def answered(response: pb.ScoreResponse) -> Answered:
    """Read an answer with one column."""
    if response.WhichOneof("output") == "arrow_stream":
        output = pa.ipc.open_stream(response.arrow_stream).read_all().combine_chunks().column(0)
        chunks = output.chunks
        return Answered(response.model.version, chunks[0] if chunks else pa.array([], output.type))
    (column,) = response.columns.columns
    return Answered(response.model.version, pa.array(list(column.doubles.values), pa.float64()))


def failed(error: Any) -> Failed:
    """Read an error of gRPC."""
    details = next((value for key, value in error.trailing_metadata() or () if key == _DETAILS), None)
    if details is None:
        return Failed(error.code().name, str(error.details()), by_service=False)
    return _failed_status(status_pb2.Status.FromString(details))


def _failed_status(status: status_pb2.Status) -> Failed:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        detail.Unpack(info)
    return Failed(info.reason, f"{status.message} {dict(info.metadata)}")


def failed_client(error: ServiceError | InvalidInput) -> Failed:
    """Read an error of the client."""
    if isinstance(error, InvalidInput):
        return Failed("INVALID_INPUT", f"by the client: {error}", by_service=False)
    text = f"{error.message} {dict(error.metadata)}"
    return Failed(error.reason or error.code.name, text, by_service=bool(error.reason))


def of_stream(response: pb.ScoreStreamResponse) -> Answered | Failed:
    """Read an answer of a stream."""
    return _failed_status(response.status) if response.HasField("status") else answered(response.response)
