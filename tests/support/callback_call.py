"""A call of a test: its answers go to functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.rpc import status_pb2

from prinz_enricher.service.calls import Call


@dataclass(slots=True, eq=False)
class CallbackCall(Call):
    """A call that is answered by functions."""

    on_response: Callable[[bytes], None]
    on_failure: Callable[[status_pb2.Status], None]
    has_gone: Callable[[], bool] = lambda: False

    def respond(self, message: bytes) -> bool:
        """Pass on a response."""
        self.on_response(message)
        return True

    def fail(self, status: status_pb2.Status) -> None:
        """Pass on an error."""
        self.on_failure(status)

    def cancelled(self) -> bool:
        """Return whether the caller has gone."""
        return self.has_gone()
