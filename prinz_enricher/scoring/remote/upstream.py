"""What can go wrong between us and a model server elsewhere.

UpstreamError
├── UpstreamFailed    no answer, or one that no model server gives; may be tried again later
├── UpstreamTimeout   the call's deadline came first
├── UpstreamRefused   the model server says that the request is wrong (HTTP 4xx)
└── CallCancelled     nobody waits for the answer any more

They stay inside `scoring/`; callers of the service see those of `prinz_enricher.errors`. No message holds credentials,
the caller's data, or the server's own words: an answer is described by status, content type and size.
"""

from __future__ import annotations

from http import HTTPStatus


class UpstreamError(Exception):
    """There is no answer; the message says why."""


class UpstreamFailed(UpstreamError):
    """The model server did not answer as it should, as often as it was tried; try again after `retry_after` seconds.

    `status` is the HTTP status of its answer, 0 for none; `foreign` says that something else than a model server
    answered, such as a login page or a redirect.
    """

    def __init__(self, why: str, retry_after: float = 1.0, *, status: int = 0, foreign: bool = False) -> None:
        super().__init__(why)
        self.retry_after = retry_after
        self.status = status
        self.foreign = foreign


class UpstreamTimeout(UpstreamError):
    """The call's deadline came before the answer; `asked` says whether a model server was asked at all."""

    def __init__(self, why: str, *, asked: bool) -> None:
        super().__init__(why)
        self.asked = asked


class UpstreamRefused(UpstreamError):
    """The model server says that the request is wrong, with HTTP status 400 to 499, or 500.

    Its `content`, up to a limit, may hold the caller's data: for programs only. An empty `content_type` is none.
    """

    def __init__(self, why: str, status: int, content: bytes, content_type: str) -> None:
        super().__init__(why)
        self.status = status
        self.content = content
        self.content_type = content_type
        # There is nothing at this address.
        self.missing = status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE)


class CallCancelled(UpstreamError):
    """The call was cancelled, and its request given up."""
