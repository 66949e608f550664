"""What all errors have: a code, a reason, and the details that travel with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

DOMAIN = "prinz.enricher"

MAX_VIOLATIONS = 100
"""How many violations an error lists; the rest is counted."""


class Code(IntEnum):
    """The gRPC status codes in use, by their numbers on the wire."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a request.

    Attributes:
        field: Where, such as `columns["alcohol"][17]`.
        description: What is wrong and what is wanted, without the caller's value.
    """

    field: str
    description: str


class EnricherError(Exception):
    """An error that a caller can see.

    Attributes:
        message: One sentence for a person.
        metadata: Every variable part of the message.
        violations: Faults of the request; at most `MAX_VIOLATIONS`.
        omitted: How many more faults there are.
        resource: Kind and name of what the error is about, such as `("model", "wine")`; None where it is about none.
        retry_after: Seconds after which a retry makes sense; None where it makes none.
    """

    code: ClassVar[Code] = Code.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        omitted: int = 0,
        resource: tuple[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        every = tuple(violations)
        self.violations = every[:MAX_VIOLATIONS]
        self.omitted = omitted + len(every) - len(self.violations)
        self.resource = resource
        self.retry_after = retry_after
