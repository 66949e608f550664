"""What a server answers: read within its limits, and judged by status, content type and size, never by its words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from http import HTTPStatus

import httpcore

from prinz_enricher.scoring.remote.errors import UpstreamFailed, UpstreamRefused
from prinz_enricher.scoring.remote.retries import RETRIED, retry_after

MAX_REFUSAL_BYTES = 1 << 20
"""How much is read of an answer that is an error; MLflow's repeat the data, and have the model's stack trace."""

_JSON = re.compile(r"application/(?:json|[a-z0-9.!#$&^_-]+\+json)")
_CONTENT_TYPE = re.compile(r"[a-z0-9.!#$&^_-]+/[a-z0-9.!#$&^_+-]+")


@dataclass(frozen=True, slots=True)
class Answer:
    """A model server's answer to a request that it accepted.

    Attributes:
        status: The HTTP status, 200.
        content: JSON, as it came.
        content_type: Such as `application/json`, in lower case, without parameters.
        url: The base URL that answered.
    """

    status: int
    content: bytes = field(repr=False)
    content_type: str
    url: str


class Again(Enum):
    """Whether the same request may be sent again."""

    NEVER = "the next answer would be the same"
    ELSEWHERE = "another base may answer"
    ANYWHERE = "the same base may answer, too"


class Shows(Enum):
    """What a try shows of the base."""

    WELL = "it answered"
    ILL = "it failed"
    NOTHING = "it may be either"


class Setback(Exception):
    """One try of a request came to nothing.

    Attributes:
        failure: What is told when there is no other try.
        again: Whether there may be one.
        wait: Seconds that the server wants to be left alone; None where it says nothing.
        shows: Whether the base is to blame.
        unsent: Whether nothing of the request was sent.
        late: Whether it took too long.
    """

    def __init__(
        self,
        failure: UpstreamFailed,
        again: Again,
        *,
        wait: float | None = None,
        shows: Shows = Shows.ILL,
        unsent: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__(failure.why)
        self.failure = failure
        self.again = again
        self.wait = wait
        self.shows = shows
        self.unsent = unsent
        self.late = late


def read(response: httpcore.Response, url: str, max_bytes: int) -> Answer:
    """Read an answer.

    Args:
        response: Whose body is not read yet.
        url: The base URL, for messages.
        max_bytes: How long the content may be.

    Raises:
        UpstreamRefused: It says that the request is wrong, or that the model fails on it.
        Setback: It is no answer of a model server, is too long, or tells of a failure.
    """
    status = response.status
    headers = {name.lower(): value for name, value in response.headers}
    content_type = _text(headers, b"content-type").partition(";")[0].strip().lower()
    shown = content_type if _CONTENT_TYPE.fullmatch(content_type) else "without a content type"
    seen = f"{url} answered with HTTP {status}, {shown}"
    length = _text(headers, b"content-length")
    if length.isdecimal():
        seen += f", {length[:20]} bytes"
    encoding = _text(headers, b"content-encoding").strip().lower()
    if encoding not in ("", "identity"):
        raise _foreign(f"{seen}: it is compressed, though that was not asked for", status)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR and _JSON.fullmatch(content_type):
        # MLflow's own words of a model that raised one of MLflow's exceptions.
        content, _ = _content(response, MAX_REFUSAL_BYTES)
        raise UpstreamRefused(seen, status, content, content_type)
    if status in RETRIED or status >= 500 or 300 <= status < 400:
        # To the end where it is short, so that the connection can be used again.
        _content(response, MAX_REFUSAL_BYTES)
        raise _no_answer(status, seen, retry_after(_text(headers, b"retry-after")))
    if status != HTTPStatus.OK:
        _fail_if_foreign(status, seen)
        content, _ = _content(response, MAX_REFUSAL_BYTES)
        raise UpstreamRefused(seen, status, content, content_type)
    if not _JSON.fullmatch(content_type):
        raise _foreign(f"{seen}: it is no JSON, so that it comes from something else than a model server", status)
    content, whole = _content(response, max_bytes, int(length[:20]) if length.isdecimal() else 0)
    if not whole:
        failure = UpstreamFailed(f"{seen}: it is longer than {max_bytes} bytes", status=status)
        raise Setback(failure, Again.NEVER, shows=Shows.WELL)
    return Answer(status, content, content_type, url)


def _no_answer(status: int, seen: str, wait: float | None) -> Setback:
    if 300 <= status < 400:
        return _foreign(f"{seen}: a redirect, which is not followed; give the URL that it leads to", status)
    failure = UpstreamFailed(seen, 1.0 if wait is None else wait, status=status)
    if status in RETRIED:
        # A base that counts our requests is well.
        shows = Shows.WELL if status == HTTPStatus.TOO_MANY_REQUESTS else Shows.ILL
        return Setback(failure, Again.ANYWHERE, wait=wait, shows=shows)
    # A model that fails on this input will do so again, and tells nothing of the base.
    return Setback(failure, Again.NEVER, shows=Shows.WELL)


def _fail_if_foreign(status: int, seen: str) -> None:
    hint = {
        HTTPStatus.UNAUTHORIZED: "the credentials are missing or wrong",
        HTTPStatus.FORBIDDEN: "the credentials do not suffice",
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "a proxy on the way wants credentials",
        HTTPStatus.REQUEST_TIMEOUT: "the request did not come in time",
    }.get(HTTPStatus(status) if status in HTTPStatus._value2member_map_ else HTTPStatus.OK)
    if hint is not None or status < 300:
        why = hint or "it is not the status of an answer"
        raise Setback(UpstreamFailed(f"{seen}: {why}", status=status), Again.NEVER, shows=Shows.WELL)


def _foreign(why: str, status: int) -> Setback:
    return Setback(UpstreamFailed(why, status=status, foreign=True), Again.ELSEWHERE)


def _content(response: httpcore.Response, max_bytes: int, declared: int = 0) -> tuple[bytes, bool]:
    """Read so much of a body; return it, and whether it is the whole."""
    if declared > max_bytes:
        return b"", False
    chunks = []
    left = max_bytes
    for chunk in response.iter_stream():
        chunks.append(chunk[:left])
        left -= len(chunk)
        if left < 0:
            return b"".join(chunks), False
    return b"".join(chunks), True


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
