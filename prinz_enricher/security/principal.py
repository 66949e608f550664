"""The one who calls."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard, TypeVar

MAX_NAME = 256
"""Characters of the name of a principal or of a group."""

MAX_REMEMBERED = 10_000

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Principal:
    """Who calls: the name of a token, a claim of a JWT, or a certificate's name; and its groups, sorted.

    There is one object for each name and groups (`Principals`), so that caches may use it as a key.
    """

    name: str
    groups: tuple[str, ...] = ()


class ClientCertificate(NamedTuple):
    """The names in a client certificate that TLS has verified; what it does not have is empty."""

    spiffe_id: str
    dns_names: tuple[str, ...]
    common_name: str

    @property
    def name(self) -> str:
        """The name of its principal: its SPIFFE id, else its first DNS name, else its common name."""
        return self.spiffe_id or next(iter(self.dns_names), "") or self.common_name


class Principals:
    """Keeps one object for each principal that is in use; thread-safe."""

    def __init__(self) -> None:
        self._known: weakref.WeakValueDictionary[tuple[str, tuple[str, ...]], Principal]
        self._known = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def get(self, name: str, groups: tuple[str, ...] = ()) -> Principal:
        """Return the principal of this name and these groups, in any order."""
        key = (name, tuple(sorted(set(groups))))
        with self._lock:
            return self._known.setdefault(key, Principal(*key))


def remember(cache: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Put something into a cache whose keys come from callers: a full one is emptied. From any thread."""
    if len(cache) >= MAX_REMEMBERED:
        cache.clear()
    cache[key] = value


def is_name(text: object) -> TypeGuard[str]:
    """Return whether a value can name a principal or a group."""
    return isinstance(text, str) and 0 < len(text) <= MAX_NAME and text.isprintable()
