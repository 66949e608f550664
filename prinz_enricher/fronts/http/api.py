"""The requests of the HTTP API: who asks, what for, and the calls of the service that answer them.

All but what can take long runs in the loop's thread. A large body is read, and a large answer written, by threads that
serve callers in turns.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog
from google.protobuf import json_format
from google.rpc import status_pb2

from prinz_enricher.catalog import Snapshot
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.errors import (
    DeadlineExceeded,
    EnricherError,
    InvalidRequest,
    MessageTooLarge,
    ModelNotFound,
    Overloaded,
)
from prinz_enricher.fronts.admin.http_tls import client_certificate
from prinz_enricher.fronts.grpc.admission import SMALL, Admission
from prinz_enricher.fronts.grpc.authentication import Callers, Verdict, gone, note_begin
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.fronts.http.console import Console, tag_of
from prinz_enricher.fronts.http.http_connection import HttpRequest
from prinz_enricher.fronts.http.invocations import CSV, InvocationsForm
from prinz_enricher.fronts.http.nussknacker_document import write_document
from prinz_enricher.fronts.http.parquet import PARQUET, ParquetReader
from prinz_enricher.fronts.http.problems import NUSSKNACKER, Problem, problem_of, write_problem
from prinz_enricher.fronts.http.request_options import options_of, timeout_of, view_of
from prinz_enricher.fronts.http.routes import Route, errors_of, find_routes
from prinz_enricher.fronts.http.row_template import JSON, Answer, RowTemplates
from prinz_enricher.fronts.http.score_exchange import ARROW, JsonForm, NussknackerForm, ScoreExchange, ScoreForm
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import MAX_REQUEST_ID, Call, CallLog
from prinz_enricher.service.fair_threads import FairThreads
from prinz_enricher.service.status import internal_failure, to_status
from prinz_enricher.service.targets import Targets
from prinz_enricher.telemetry.series import OTHER, Series
from prinz_enricher.telemetry.tracing import Tracing

LARGE: Final = 32 * 1024
"""Bytes of a body, or of a response, from which other threads read or write it."""

MAX_JSON_BYTES: Final = 32 * 1024 * 1024
"""Bytes of a body of JSON, CSV or Parquet: read, it takes some twenty times as many. Arrow is for more."""
_JSON_MEMORY: Final = 20

NUSSKNACKER_SECONDS: Final = 8.0
"""Seconds of a request of Nussknacker at most: Flink fails a job whose event takes ten."""

_MAX_DOCUMENTS: Final = 32
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_NO_STORE: Final = b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Bounds of requests: bytes of a message, rows, and the seconds that a caller may wait.

    Who asks for Nussknacker's document without a name sees what `document_principal` sees.
    """

    message_bytes: int
    rows: int
    seconds: float
    document_principal: str = ""


@dataclass(slots=True, eq=False)
class HttpCall(Call):
    """A call that an HTTP request has made; `finish` makes the body of its response."""

    api: Api
    http: HttpRequest
    finish: Callable[[bytes], Answer]
    gone: bool = False
    _ended: threading.Lock = field(default_factory=threading.Lock)

    def respond(self, message: bytes) -> bool:
        """Answer with a serialised response."""
        return self.api.answer(self, message)

    def fail(self, status: status_pb2.Status) -> None:
        """Answer with an error."""
        self.api.answer(self, status)

    def end(self) -> bool:
        """Note that it ends; returns False where it did before."""
        return self._ended.acquire(blocking=False)

    def cancelled(self) -> bool:
        """Return whether the caller has gone."""
        return self.gone

    def hold(self, size: int) -> None:
        """Count bytes more."""
        self.api.admission.grow(self.http, size)


@dataclass(slots=True)
class _Context:
    """What is known of a request: where it goes, and who asks."""

    route: Route | None = None
    names: dict[str, str] = field(default_factory=dict)
    errors: str = "problem"
    principal: Principal | None = None
    media: str = ""
    request_id: str = ""
    call: HttpCall | None = None


class Api:
    """Answers the requests of all connections; see `RequestHandler`."""

    def __init__(
        self,
        targets: Targets,
        callers: Callers | None,
        admission: Admission,
        limits: ApiLimits,
        series: Series,
        tracing: Tracing | None,
        console: Console,
    ) -> None:
        self.draining = False
        self.admission = admission
        self._targets = targets
        self._callers = callers
        self._limits = limits
        self._series = series
        self._tracing = tracing
        self._console = console
        self._documents: dict[Principal | None, tuple[Snapshot, AccessRules, Answer]] = {}
        # One object, as for each caller.
        self._reader = Principal(limits.document_principal) if limits.document_principal else None
        self._templates = RowTemplates()
        self._readers = FairThreads(2, "http-bodies")
        # Their own, since each may wait for seconds.
        self._parquet, self._parquet_readers = ParquetReader(), FairThreads(2, "http-parquet")
        self._answers: deque[tuple[HttpCall, bytes | status_pb2.Status]] = deque()
        self._scheduled = False
        self._loop: Any = None
        self._log: CallLog | None = None
        self._does: dict[str, Callable[[HttpRequest, _Context], None]] = {
            "file": self._file,
            "activity": self._activity,
            "document": self._document,
            "nussknacker": lambda request, context: self._nussknacker(request, context, many=False),
            "nussknacker_many": lambda request, context: self._nussknacker(request, context, many=True),
            "invocations": self._invocations,
            "list": self._list,
            "get": self._get,
            "score": self._score,
        }

    def open(self, loop: Any, batcher: CallBatcher, log: CallLog | None) -> None:
        """Begin to answer, in this loop and by this hand-over of calls."""
        self._loop, self._batcher, self._log = loop, batcher, log

    def change(self, limits: ApiLimits, log: CallLog | None) -> None:
        """Go on with other bounds, and another log; from any thread."""
        self._limits, self._log = limits, log

    def close(self) -> None:
        """End the threads, and the process that reads Parquet."""
        for threads in (self._readers, self._parquet_readers):
            threads.shutdown()
        self._parquet.close()

    # What connections ask: see `RequestHandler`.

    def begin(self, request: HttpRequest) -> None:
        """Find the route and the caller of a request, before its body is received."""
        context = request.context = _Context(errors=errors_of(request.path))
        try:
            found = find_routes(request.path)
        except UnicodeDecodeError:
            self._problem(request, Problem(400, "INVALID_HTTP", "The path is not UTF-8."))
            return
        method = "GET" if request.method == "HEAD" else request.method
        matching = next(((route, names) for route, names in found if route.method == method), None)
        if matching is None:
            self._no_route(request, [route for route, _ in found])
            return
        context.route, context.names = route, _ = matching
        context.errors = route.errors
        context.media = request.headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        request_id = request.headers.get(b"x-request-id", b"").decode("latin-1")
        context.request_id = request_id if request_id.isascii() and request_id.isprintable() else ""
        if route.method == "POST":
            whole = self._limits.message_bytes
            request.max_body = whole if context.media == ARROW else min(whole, MAX_JSON_BYTES)
        if self._callers is None or route.is_open:
            self._admit(request, None)
            return
        authorization = request.headers.get(b"authorization", b"").decode("latin-1") or None
        certificate = None if request.connection.tls is None else client_certificate(request.connection.tls)
        if route.does == "document" and not authorization and certificate is None and self._reader is not None:
            self._admit(request, self._reader)
            return
        verdict = self._callers.known(authorization, certificate)
        if verdict is not None:
            self._admit(request, verdict)
            return
        request.hold()
        future = self._callers.verify(authorization)
        future.add_done_callback(lambda done: self._soon(self._verified, request, done.result()))

    def received(self, request: HttpRequest, size: int) -> None:
        """Count the bytes of a body with all that are in flight."""
        try:
            self.admission.grow(request, size)
        except Overloaded as error:
            self._refuse(request, to_status(error))

    def run(self, request: HttpRequest) -> None:
        """Answer a whole request."""
        context = request.context
        if not request.answered and context.route is not None:
            try:
                self._does[context.route.does](request, context)
            except EnricherError as error:
                self._refuse(request, to_status(error))
            except Exception as error:  # noqa: BLE001 - a fault of this service
                self._refuse(request, internal_failure(log, "http request failed", error, route=context.route.template))

    def late(self, request: HttpRequest) -> None:
        """Answer a request whose deadline has passed."""
        status = to_status(DeadlineExceeded("queue"))
        call = request.context.call
        if call is None:
            self._refuse(request, status)
        elif call.end():
            call.gone = True
            call.note_failure(status)
            self._end(call, status)

    def lost(self, request: HttpRequest) -> None:
        """Let the call of a request go that nobody waits for."""
        call = request.context.call if request.context is not None else None
        self._count(request, 499)
        if call is not None and call.end():
            call.gone = True
            call.note_failure(gone(call))
            self._note_end(call, gone(call))
        self.admission.leave(request)

    def sent(self, request: HttpRequest) -> None:
        """Count a request as over."""
        self.admission.leave(request)

    def refuse(self, request: HttpRequest | None, status: int, reason: str, why: str) -> tuple[bytes, bytes]:
        """Return the head and the body of a refusal by the protocol."""
        errors = request.context.errors if request is not None and request.context is not None else "problem"
        _, headers, body = write_problem(Problem(status, reason, why), errors)
        if request is not None:
            self._count(request, status)
        return headers, body

    # Who asks.

    def _verified(self, request: HttpRequest, verdict: Verdict) -> None:
        self._admit(request, verdict)
        request.proceed()

    def _admit(self, request: HttpRequest, verdict: Verdict | None) -> None:
        context = request.context
        if request.answered:
            return
        if isinstance(verdict, status_pb2.Status):
            self._note_refusal(request, verdict)
            self._refuse(request, verdict)
            return
        context.principal = verdict
        refusal = self.admission.enter(request, self._key(request))
        if refusal is not None:
            self._note_refusal(request, refusal)
            self._refuse(request, refusal)

    def _key(self, request: HttpRequest) -> Hashable:
        return request.context.principal or request.connection.host

    def _note_refusal(self, request: HttpRequest, status: status_pb2.Status) -> None:
        context = request.context
        if self._log is not None and context.route is not None:
            self._log.refuse(context.route.method_name, context.principal, request.connection.peer, status)

    def _no_route(self, request: HttpRequest, others: list[Route]) -> None:
        if not others:
            self._problem(request, Problem(404, "PATH_NOT_FOUND", "There is no such path; GET /openapi.json has all."))
            return
        methods = ", ".join(sorted({route.method for route in others if route.template == others[0].template}))
        problem = Problem(405, "METHOD_NOT_ALLOWED", f"The path takes {methods} alone.")
        request.context.errors = others[0].errors
        self._problem(request, problem, f"Allow: {methods}\r\n".encode())

    # What is asked for.

    def _file(self, request: HttpRequest, _: _Context) -> None:
        found = self._console.files.get(request.path)
        if found is None:
            self._no_route(request, [])
        else:
            self._send_tagged(request, found.answer, found.tag)

    def _activity(self, request: HttpRequest, context: _Context) -> None:
        options = options_of(request, {"model", "version"})
        name = options.get("model", "")
        if name not in self._targets.view(context.principal, "list").models:
            raise ModelNotFound(name)

        def make() -> None:
            answer = self._console.activity(name, options.get("version"))
            self._soon(self._respond, request, 200, answer)

        self._make(request, make)

    def _document(self, request: HttpRequest, context: _Context) -> None:
        principal, seen = context.principal, self._targets.view(context.principal, "list")
        rules, kept = self._targets.rules, self._documents.get(principal)
        if kept is not None and kept[0] is seen and kept[1] is rules:
            self._send_tagged(request, kept[2], tag_of(kept[2].body))
            return

        def make() -> None:
            may, secured = partial(rules.may, principal, "score"), self._callers is not None
            body = write_document(seen.models, self._targets.default_version, may, secured=secured)
            if len(self._documents) >= _MAX_DOCUMENTS:
                self._documents.clear()
            answer = Answer(body, headers=b"Cache-Control: no-cache\r\n")
            self._documents[principal] = seen, rules, answer
            self._soon(self._send_tagged, request, answer, tag_of(body))

        self._make(request, make)

    def _make(self, request: HttpRequest, make: Callable[[], None]) -> None:
        """Answer a request by another thread, since it may take long."""

        def work() -> None:
            try:
                make()
            except Exception as error:  # noqa: BLE001 - a fault of this service
                self._soon(self._refuse, request, internal_failure(log, "http answer not written", error))

        self._readers.submit(self._key(request), work)

    def _send_tagged(self, request: HttpRequest, answer: Answer, tag: bytes) -> None:
        """Answer with what has a tag; with the tag alone where the caller has it."""
        headers = answer.headers + b"ETag: " + tag + b"\r\n"
        if tag in request.headers.get(b"if-none-match", b""):
            self._count(request, 304)
            request.respond(304, headers, b"")
        elif (refusal := self.admission.resize(request, len(answer.body))) is not None:
            self._refuse(request, refusal)
        else:
            self._respond(request, 200, replace(answer, headers=headers), caching=b"")

    def _nussknacker(self, request: HttpRequest, context: _Context, *, many: bool) -> None:
        if self._takes(request, context, JSON):
            self._exchange(request, context, NussknackerForm(many=many))

    def _invocations(self, request: HttpRequest, context: _Context) -> None:
        if self._takes(request, context, JSON, CSV, PARQUET):
            most = min(self._limits.message_bytes, MAX_JSON_BYTES)
            self._exchange(request, context, InvocationsForm(self._parquet, most, self._limits.rows))

    def _list(self, request: HttpRequest, context: _Context) -> None:
        options = options_of(request, {"view", "page_size", "page_token", "filter"})
        size = options.get("page_size", "0")
        if not (size.isascii() and size.isdigit() and len(size) < 8):
            raise InvalidRequest("page_size", "is not a number of models")
        message = pb.ListModelsRequest(
            page_size=int(size), page_token=options.get("page_token", ""), filter=options.get("filter", ""),
            view=view_of(options),
        )  # fmt: skip
        self._call(request, context, "ListModels", message.SerializeToString(), _list_answer)

    def _get(self, request: HttpRequest, context: _Context) -> None:
        name = context.names["name"]
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        message = pb.ListModelsRequest(filter=f'name = "{quoted}"', view=view_of(options_of(request, {"view"})))

        def finish(response: bytes) -> Answer:
            listed = pb.ListModelsResponse.FromString(response)
            if not listed.models:
                raise ModelNotFound(name)
            return Answer(json_format.MessageToJson(listed.models[0], indent=None, ensure_ascii=False).encode())

        self._call(request, context, "ListModels", message.SerializeToString(), finish)

    def _score(self, request: HttpRequest, context: _Context) -> None:
        if self._takes(request, context, JSON, ARROW):
            self._exchange(request, context, JsonForm())

    def _takes(self, request: HttpRequest, context: _Context, *media: str) -> bool:
        """Return whether the body is of one of these media types; others are refused."""
        if context.media in media and request.headers.get(b"content-encoding", b"identity") == b"identity":
            return True
        why = f"The body is to be {' or '.join(media)}, by its Content-Type, and not compressed."
        self._problem(request, Problem(415, "MEDIA_TYPE_NOT_SUPPORTED", why))
        return False

    def _exchange(self, request: HttpRequest, context: _Context, form: ScoreForm) -> None:
        """Score the rows of a body, in the form that the route has them."""
        exchange = ScoreExchange(self._targets, self._series, self._templates, context.names, form)
        if len(context.request_id) > MAX_REQUEST_ID:
            raise InvalidRequest("X-Request-Id", f"is longer than {MAX_REQUEST_ID} characters")
        call = self._begin_call(request, context, "Score", exchange.answer)
        if call is None:
            return
        body = b"".join(request.body)
        request.body.clear()
        work = partial(self._translate, call, exchange, body)
        if len(body) <= LARGE and context.media != PARQUET:
            work(self._batcher.add)
        else:
            threads = self._parquet_readers if context.media == PARQUET else self._readers
            self._elsewhere(call, partial(work, partial(self._soon, self._batcher.add)), threads)

    def _translate(self, call: HttpCall, exchange: ScoreExchange, body: bytes, add: Callable[[Call], None]) -> None:
        """Write the request of a call, and hand it over; in any thread, and never raises."""
        context: _Context = call.http.context
        try:
            if call.cancelled():
                return
            if len(body) > LARGE and context.media != ARROW:
                call.hold(_JSON_MEMORY * len(body))
            request_id, rows = context.request_id, self._limits.rows
            call.request = exchange.request(call, body, context.media, call.http.query, request_id, rows)
            if len(call.request) > self._limits.message_bytes:
                raise MessageTooLarge("request", len(call.request), self._limits.message_bytes)  # noqa: TRY301
            if context.media == PARQUET:
                # It may be much more than its file.
                call.hold(len(call.request))
        except EnricherError as error:
            call.fail(to_status(error))
        except Exception as error:  # noqa: BLE001 - a fault of this service
            call.fail(internal_failure(log, "http body not read", error))
        else:
            add(call)

    def _begin_call(
        self, request: HttpRequest, context: _Context, method: str, finish: Callable[[bytes], Answer]
    ) -> HttpCall | None:
        """Return the call of a request, noted as begun; None where it is refused, which is answered."""
        most = NUSSKNACKER_SECONDS if context.errors == NUSSKNACKER else self._limits.seconds
        seconds = min(most, self._limits.seconds, timeout_of(request))
        # Up to a hundredth sooner, so that many have the same one: these are scored together.
        grain = seconds / 100
        deadline = (request.arrived + seconds) // grain * grain
        connection = request.connection
        call = HttpCall(
            *(method, b"", request.arrived, deadline, self, request, finish),
            principal=context.principal, peer=connection.peer,
        )  # fmt: skip
        if self._tracing is not None:
            sent = ((name, request.headers.get(name.encode())) for name in ("traceparent", "tracestate"))
            call.trace = self._tracing.begin([(name, value.decode("latin-1")) for name, value in sent if value])
        request.deadline = deadline
        refusal = note_begin(self._log, call)
        if refusal is not None:
            self._refuse(request, refusal)
            return None
        context.call = call
        return call

    def _call(
        self, request: HttpRequest, context: _Context, method: str, message: bytes, finish: Callable[[bytes], Answer]
    ) -> None:
        call = self._begin_call(request, context, method, finish)
        if call is not None:
            call.request = message
            self._batcher.add(call)

    # Answers.

    def answer(self, call: HttpCall, result: bytes | status_pb2.Status) -> bool:
        """Answer a call, from any thread; answers enter the loop together.

        Returns whether the caller gets this response, and not an error, nor has what came before.
        """
        if not call.end():
            return False
        if not isinstance(result, bytes):
            call.note_failure(result)
        self._answers.append((call, result))
        if not self._scheduled:
            self._scheduled = True
            self._soon(self._answer_all)
        return isinstance(result, bytes)

    def _answer_all(self) -> None:
        self._scheduled = False
        while self._answers:
            call, result = self._answers.popleft()
            if isinstance(result, bytes) and (len(result) > LARGE or call.method != "Score"):
                self._elsewhere(call, partial(self._write_elsewhere, call, result), self._readers)
            else:
                self._end(call, self._written(call, result))

    def _write_elsewhere(self, call: HttpCall, message: bytes) -> None:
        self._soon(self._end, call, self._written(call, message))

    def _written(self, call: HttpCall, result: bytes | status_pb2.Status) -> Answer | status_pb2.Status:
        """Return the body of a response, or the error that there is instead; never raises."""
        if not isinstance(result, bytes):
            return result
        try:
            return call.finish(result)
        except EnricherError as error:
            return to_status(error)
        except Exception as error:  # noqa: BLE001 - a fault of this service
            return internal_failure(log, "http answer not written", error)

    def _end(self, call: HttpCall, result: Answer | status_pb2.Status) -> None:
        call.request = b""
        if isinstance(result, status_pb2.Status):
            result = call.traced(result)
        self._note_end(call, result if isinstance(result, status_pb2.Status) else None)
        if isinstance(result, status_pb2.Status):
            self._refuse(call.http, result)
            return
        refusal = self.admission.resize(call.http, len(result.body)) if len(result.body) > SMALL else None
        if refusal is None:
            self._respond(call.http, 200, result)
        else:
            self._refuse(call.http, refusal)

    def _note_end(self, call: HttpCall, error: status_pb2.Status | None) -> None:
        """Note the end of a call in logs and traces."""
        if call.audit is not None:
            call.audit.end(error)
        if call.trace is not None:
            call.end_trace(error)

    def _elsewhere(self, call: HttpCall, work: Callable[[], None], threads: FairThreads) -> None:
        try:
            threads.submit(self._key(call.http), work)
        except RuntimeError as error:
            status = to_status(Overloaded(f"no thread can take the request ({error})"))
            if call.end():
                call.note_failure(status)
            self._end(call, status)

    def _soon(self, act: Callable[..., object], *arguments: object) -> None:
        """Act in the loop's thread; nothing is left to do once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act, *arguments)

    def _respond(self, request: HttpRequest, status: int, answer: Answer, caching: bytes = _NO_STORE) -> None:
        if request.answered:
            return
        self._count(request, status)
        headers = b"Content-Type: " + answer.media.encode() + b"\r\n" + caching + answer.headers
        if request_id := request.context.request_id:
            headers += b"X-Request-Id: " + request_id.encode("ascii") + b"\r\n"
        request.respond(status, headers, answer.body)

    def _refuse(self, request: HttpRequest, status: status_pb2.Status) -> None:
        self._problem(request, problem_of(status, request.context.request_id))

    def _problem(self, request: HttpRequest, problem: Problem, more: bytes = b"") -> None:
        if request.answered:
            return
        status, headers, body = write_problem(problem, request.context.errors)
        log.debug("http request refused", reason=problem.reason, correlation_id=problem.correlation_id)
        self._count(request, status)
        request.respond(status, headers + more, body)

    def _count(self, request: HttpRequest, status: int) -> None:
        context = request.context
        route = context.route.template if context is not None and context.route is not None else OTHER
        method = request.method if request.method in _METHODS else OTHER
        self._series.requested(method, route, str(status), time.monotonic() - request.arrived)


def _list_answer(response: bytes) -> Answer:
    message = pb.ListModelsResponse.FromString(response)
    return Answer(json_format.MessageToJson(message, indent=None, ensure_ascii=False).encode())
