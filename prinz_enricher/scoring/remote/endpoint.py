"""What is set of one endpoint: where its model servers are, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_LEAST_BURST = 10


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The bases and limits of one endpoint; times in seconds, sizes in bytes.

    Attributes:
        urls: The base URLs, without user, password, query and fragment; all answer alike.
        http2: Whether HTTP/2 is offered to servers with https.
        timeout: How long one try of a request may take.
        max_concurrent: Requests at once, to all bases together.
        max_answer_bytes: How long an answer may be.
        max_retries: How often one call is tried again.
        retry_share: How many retries there may be for each call, over all calls.
        breaker_failures: After how many failures in a row a base is left out.
        breaker_pause: For how long at first.
        headers: Sent with each request, besides what is always sent.
    """

    urls: tuple[str, ...]
    http2: bool = False
    timeout: float = 10.0
    max_concurrent: int = 8
    max_answer_bytes: int = 64 << 20
    max_retries: int = 3
    retry_share: float = 0.2
    breaker_failures: int = 5
    breaker_pause: float = 5.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def retry_burst(self) -> int:
        """How many retries can be saved up: enough for all calls that are under way when a base freezes."""
        return max(_LEAST_BURST, self.max_concurrent) if self.retry_share and self.max_retries else 0
