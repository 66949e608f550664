"""What can go wrong between us and a model server elsewhere.

UpstreamError
├── UpstreamFailed    no answer, or none of a model server: may be tried again
├── UpstreamTimeout   the call's deadline came first
├── UpstreamRefused   the model server says that the request is wrong (HTTP 4xx), in its own words
└── CallCancelled     nobody waits for the answer any more

They stay inside `scoring/`; callers of the service see those of `prinz_enricher.errors`. No message holds credentials,
the caller's data, or what the server said in its own words: an answer is told by status, content type and size.
"""

from __future__ import annotations

from http import HTTPStatus

_MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE)


class UpstreamError(Exception):
    """There is no answer to be had.

    Attributes:
        why: What happened.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class UpstreamFailed(UpstreamError):
    """The model server did not answer as it should, as often as it was tried.

    Attributes:
        retry_after: Seconds after which another try makes sense.
        status: The HTTP status of its answer; 0 where there was none.
        foreign: Whether the answer is none of a model server, such as a login page or a redirect.
    """

    def __init__(self, why: str, retry_after: float = 1.0, *, status: int = 0, foreign: bool = False) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        self.status = status
        self.foreign = foreign


class UpstreamTimeout(UpstreamError):
    """The call's deadline came before the answer.

    Attributes:
        asked: Whether a model server was asked at all; else the call waited for its turn.
    """

    def __init__(self, why: str, *, asked: bool) -> None:
        super().__init__(why)
        self.asked = asked


class UpstreamRefused(UpstreamError):
    """The model server says that the request is wrong.

    Attributes:
        status: The HTTP status, 400 to 499.
        content: What the server said, up to a limit; it may hold the caller's data, so it is for reading by a program.
        content_type: What the server calls it; empty for nothing.
    """

    def __init__(self, why: str, status: int, content: bytes, content_type: str) -> None:
        super().__init__(why)
        self.status = status
        self.content = content
        self.content_type = content_type

    @property
    def missing(self) -> bool:
        """Whether there is nothing at this address."""
        return self.status in _MISSING


class CallCancelled(UpstreamError):
    """The call was cancelled, and its exchange broken off."""
