"""The last revisions of the catalog and what changed with each, so that a watch goes on where it was cut off."""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections import deque
from copy import copy
from dataclasses import dataclass

from prinz_enricher.catalog.changes import Change, diff
from prinz_enricher.catalog.snapshot import Snapshot
from prinz_enricher.errors import ResyncRequired

MAX_REVISIONS = 256
MAX_CHANGES = 10_000
"""Changes kept in all: a history that is all changes of a large registry must not hold many copies of it."""

_FORMAT = b"\x01"
_EPOCH_BYTES = 8
_COUNTER_BYTES = 8
_CHECKSUM_BYTES = 4
_MAX_TOKEN_CHARACTERS = 256


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the history of one process.

    Attributes:
        epoch: Tells processes apart.
        counter: How many revisions the process had seen.
        revision: The catalog's revision then.
    """

    epoch: bytes
    counter: int
    revision: str

    def token(self) -> str:
        """Write the position as text for callers, to whom it says nothing."""
        body = _FORMAT + self.epoch + self.counter.to_bytes(_COUNTER_BYTES, "big") + self.revision.encode()
        return base64.urlsafe_b64encode(_checksum(body) + body).rstrip(b"=").decode()


def read_token(token: str) -> Position:
    """Read what `Position.token` wrote.

    Raises:
        ResyncRequired: It is none of those.
    """
    if len(token) > _MAX_TOKEN_CHARACTERS or not token.isascii():
        raise ResyncRequired
    try:
        content = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ResyncRequired from None
    body = content[_CHECKSUM_BYTES:]
    if content[:_CHECKSUM_BYTES] != _checksum(body) or not body.startswith(_FORMAT):
        raise ResyncRequired
    epoch, rest = body[1 : 1 + _EPOCH_BYTES], body[1 + _EPOCH_BYTES :]
    try:
        revision = rest[_COUNTER_BYTES:].decode()
    except UnicodeDecodeError:
        raise ResyncRequired from None
    return Position(epoch, int.from_bytes(rest[:_COUNTER_BYTES], "big"), revision)


def _checksum(body: bytes) -> bytes:
    # Against damage alone; who makes up a token harms nobody but himself.
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What changed with one revision.

    Attributes:
        position: Where the catalog was after it.
        changes: In the order of `diff`.
    """

    position: Position
    changes: tuple[Change, ...]


class History:
    """The last revisions, the newest last. Not for several threads at once."""

    def __init__(self, limit: int = MAX_REVISIONS, *, max_changes: int = MAX_CHANGES) -> None:
        """Know nothing yet.

        Args:
            limit: How many revisions are kept.
            max_changes: How many changes are kept in all.
        """
        self._limit = limit
        self._max_changes = max_changes
        self._position = Position(secrets.token_bytes(_EPOCH_BYTES), 0, "")
        # The revision before the oldest change set that is kept: a watch that saw it can still go on.
        self._oldest = self._position
        self._sets: deque[ChangeSet] = deque()
        self._kept_changes = 0

    def copy(self) -> History:
        """Return another one that knows the same, and stands for the same process."""
        other: History = copy(self)
        other._sets = self._sets.copy()
        return other

    @property
    def position(self) -> Position:
        """Where the catalog is now."""
        return self._position

    def append(self, old: Snapshot | None, new: Snapshot) -> ChangeSet:
        """Take a new snapshot in.

        Args:
            old: The one before; None where there was none.
            new: What there is now.

        Returns:
            What changed; may be nothing, where only faults outside of the models did.
        """
        self._position = Position(self._position.epoch, self._position.counter + 1, new.revision)
        news = ChangeSet(self._position, diff(old, new))
        if old is None:
            # Nobody can have seen less than the first snapshot.
            self._oldest = self._position
            return news
        self._sets.append(news)
        self._kept_changes += len(news.changes)
        while self._sets and (len(self._sets) > self._limit or self._kept_changes > self._max_changes):
            gone = self._sets.popleft()
            self._kept_changes -= len(gone.changes)
            self._oldest = gone.position
        return news

    def since(self, position: Position) -> tuple[ChangeSet, ...] | None:
        """Tell what changed since a position.

        A position of another process is one of ours too where the catalog had the same revision here: the same
        revision is the same content.

        Args:
            position: As a token told it.

        Returns:
            The change sets after it, oldest first; None where that is not known, or not any more.
        """
        seen = [self._oldest, *(one.position for one in self._sets)]
        for index in range(len(seen) - 1, -1, -1):
            ours = seen[index]
            same_place = position.epoch != ours.epoch or position.counter == ours.counter
            if ours.counter and position.revision == ours.revision and same_place:
                return tuple(self._sets)[index:]
        return None
