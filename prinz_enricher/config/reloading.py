"""Which settings a running service takes over when they are read again, and what of new ones that comes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from prinz_enricher.config.sections import Section
from prinz_enricher.config.settings import ConfigError, Settings

_RELOADED: Final[Mapping[str, frozenset[str]]] = {
    section: frozenset(keys.split())
    for section, keys in {
        "registry": "include exclude refresh_interval signature_ttl",
        "server": "max_decoded_bytes max_calls max_inflight_bytes grace_period",
        "api": "timeout",
        "access": "principals models methods",
        "quota": "rows_per_second calls_in_flight",
        "scoring": "preload max_workers replicas max_batch_rows max_queue_rows max_shared_rows max_delay max_wait"
        " idle_unload load_timeout",
        "workers": "memory_budget",
        "logging": "level format requests slow_call_seconds",
    }.items()
}


def is_reloaded(section: str, key: str) -> bool:
    """Return whether a running service takes over a key; the section is `server.tls`, say, or `registry` for any."""
    return key in _RELOADED.get(section, ())


class Reload(NamedTuple):
    """New settings for a running service: those keys that are `taken` over and those that need a `restart`, by name.

    `settings` are the former ones but for what is taken over.
    """

    settings: Settings
    taken: list[str]
    restart: list[str]


def reload(old: Settings, new: Settings) -> Reload:
    """Return what of new settings a service takes over that has the old ones.

    Raises ConfigError where what is taken over does not fit what stays, such as access rules without authentication.
    """
    before, after = dict(_values(old)), dict(_values(new))
    taken: list[str] = []
    restart: list[str] = []
    values = old.model_dump()
    for path in sorted(before.keys() | after.keys()):
        if path in before and path in after and before[path] == after[path]:
            continue
        # A registry, or an endpoint, that comes or goes is named as a whole.
        whole = path[:2] if path[:2] not in {other[:2] for other in (after if path in before else before)} else path
        section = "registry" if path[0] == "registries" else ".".join(path[:-1])
        if path == ("access",) or (whole == path and is_reloaded(section, path[-1])):
            table: Any = values
            for name in path[:-1]:
                table = table[name]
            table[path[-1]] = after[path]
            taken.append(".".join(path))
        elif (name := ".".join(whole)) not in restart:
            restart.append(name)
    try:
        return Reload(Settings.of(values), taken, restart)
    except ConfigError as error:
        raise ConfigError(f"{error} (a change of {', '.join(restart)} needs a restart)") from None


def _values(table: Section, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the path of each key, and its value; the access rules are one key."""
    for key in type(table).model_fields:
        value = getattr(table, key)
        if isinstance(value, Section):
            yield from _values(value, (*path, key))
        elif isinstance(value, dict) and not path:
            for name, one in value.items():
                yield from _values(one, (key, name))
        else:
            yield (*path, key), value
