"""Every key of the settings is either taken over by a running service, or named as one that needs a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from prinz_enricher.application import Application
from prinz_enricher.config import AccessRule, ConfigError, ServerSettings, Settings, is_reloaded, section_of
from prinz_enricher.config import reload as reload_settings
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.security.access import AccessRules
from prinz_enricher.service.calls import CallHandler, CallLog, SourceOpener
from tests.support.deadline import wait_until
from tests.support.gathering import HandPool
from tests.support.hostile_server import HostileServer
from tests.support.synthetic_registry import SyntheticRegistry

BASE: dict[str, Any] = {
    "registry": {"url": "https://127.0.0.1:9", "snapshot_folder": ""},
    "registries": {"b": {"url": "https://127.0.0.1:8", "snapshot_folder": ""}},
    "endpoints": {"farm": {"urls": ["https://127.0.0.1:7"]}},
    "auth": {"tokens_file": "tokens.toml"},
    "http": {"port": 1},
    "api": {"port": 1},
    "flight": {"port": 1},
}

OTHER: dict[str, object] = {
    "access": [{"principals": ["a"], "models": ["*"], "methods": ["list"]}],
    "audit.max_bytes": 1 << 22,
    "auth": "basic",
    "auth.jwt.jwks_url": "https://id/jwks",
    "batching": "off",
    "convention": ["mlflow"],
    "default_version": ["latest"],
    "endpoint_names": {"a": "b"},
    "environment": "current",
    "format": "json",
    "front": "grpcio",
    "headers": {"x": "y"},
    "host": "localhost",
    "kind": "unity",
    "level": "warning",
    "requests": "all",
    "oauth2_token_url": "https://id/token",
    "preload": ["a"],
    "replicas": 3,
    "retry_share": 0.5,
    "spare_workers": 0,
    "max_delay": 0.5,
    "url": "https://127.0.0.1:6",
    "urls": ["https://127.0.0.1:5"],
}
"""What a key is changed to, by its path or its last name, where that can't be made of its default."""

BESIDE: dict[str, dict[str, object]] = {
    "username": {"password": "p"},
    "password": {"username": "u"},
    "password_file": {"username": "u"},
    "auth": {"username": "u", "password": "p"},
    "oauth2_token_url": {"oauth2_client_id": "i", "oauth2_client_secret": "s"},
    "oauth2_client_id": {"oauth2_token_url": "https://id/t", "oauth2_client_secret": "s"},
    "oauth2_client_secret": {"oauth2_token_url": "https://id/t", "oauth2_client_id": "i"},
    "oauth2_client_secret_file": {"oauth2_token_url": "https://id/t", "oauth2_client_id": "i"},
    "oauth2_scope": {"oauth2_token_url": "https://id/t", "oauth2_client_id": "i", "oauth2_client_secret": "s"},
    "oauth2_audience": {"oauth2_token_url": "https://id/t", "oauth2_client_id": "i", "oauth2_client_secret": "s"},
    "client_key": {"client_certificate": "c"},
    "certificate": {"key": "k"},
    "key": {"certificate": "c"},
    "client_ca": {"certificate": "c", "key": "k"},
    "kind": {"token": "t"},
    "required": {"output": "stdout"},
    **{
        key: {"issuer": "https://id", "audience": "prinz", "jwks_file": "jwks.json"}
        for key in ("issuer", "audience", "jwks_file")
    },
    "jwks_url": {"issuer": "https://id", "audience": "prinz"},
}
"""Keys that must be set with a key."""


def keys_of(kind: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key of a section, and of the sections in it."""
    for key in kind.model_fields:
        inner = section_of(kind, key)
        if inner is not None:
            yield from keys_of(inner, (*path, key))
        elif not path and key in ("registries", "endpoints"):
            [name] = BASE[key]
            yield from keys_of(type(getattr(Settings.load(BASE, environment={}), key)[name]), (key, name))
        else:
            yield (*path, key)


KEYS = list(keys_of(Settings))


def with_key(path: tuple[str, ...], settings: Settings) -> Settings:
    """Return other settings: with this key changed, and those that must be set with it."""
    value: Any = settings
    for name in path:
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    made: object = OTHER.get(".".join(path), OTHER.get(path[-1]))
    if made is None and isinstance(value, bool):
        made = not value
    elif made is None and isinstance(value, int | float):
        made = value + 1
    elif made is None and isinstance(value, tuple):
        made = [*value, "x"]
    elif made is None:
        # None is of numbers, but for some.
        made = "x" if isinstance(value, str) or path[-1] in ("prefix", "folder") else 1 << 30
    values: dict[str, Any] = {section: dict(keys) for section, keys in BASE.items()}
    values["registries"] = {"b": dict(BASE["registries"]["b"])}
    values["endpoints"] = {"farm": dict(BASE["endpoints"]["farm"])}
    table = values
    for name in path[:-1]:
        table = table.setdefault(name, {})
    table |= BESIDE.get(path[-1], {}) if len(path) > 1 else {}
    table[path[-1]] = made
    return Settings.load(values, environment={})


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_every_key_is_taken_over_or_named(path: tuple[str, ...]) -> None:
    """A key that changes is in one of both lists, and only what is taken over changes."""
    old = Settings.load(BASE, environment={})
    new = with_key(path, old)
    found = reload_settings(old, new)
    key = ".".join(path)
    section = "registry" if path[0] == "registries" else ".".join(path[:-1])
    taken = key == "access" or is_reloaded(section, path[-1])
    assert (key in found.taken, key in found.restart) == (taken, not taken)
    beside = [".".join((*path[:-1], one)) for one in BESIDE.get(path[-1], {})]
    assert {*found.taken, *found.restart} <= {key, *beside}
    assert (found.settings == new) == taken
    assert taken or found.settings == old
    # And back.
    assert reload_settings(new, old).taken == found.taken


def test_registries_and_endpoints_that_come_or_go() -> None:
    """They are named as a whole, and need a restart; what else changes is taken over."""
    old = Settings.load(BASE, environment={})
    new = {key: value for key, value in BASE.items() if key not in ("registries", "endpoints")}
    new |= {"registries": {"c": BASE["registries"]["b"]}, "quota": {"calls_in_flight": 7}}
    found = reload_settings(old, Settings.load(new, environment={}))
    assert found.taken == ["quota.calls_in_flight"]
    assert sorted(found.restart) == ["endpoints.farm", "registries.b", "registries.c"]
    assert list(found.settings.all_registries) == ["", "b"]
    assert found.settings.quota.calls_in_flight == 7


def test_rules_without_authentication_are_refused() -> None:
    """Access rules do not go without the authentication that comes with them, which needs a restart."""
    old = Settings.load({"registry": BASE["registry"]}, environment={})
    with pytest.raises(ConfigError, match=r"access: needs authentication.*auth.tokens_file"):
        reload_settings(old, with_key(("access",), Settings.load(BASE, environment={})))


class Front:
    """A front that keeps what it is changed to."""

    changed: tuple[ServerSettings, AccessRules, CallLog | None] | None = None
    grace = 0.0

    def start(self, handler: CallHandler, open_source: SourceOpener, log: CallLog | None = None) -> int:
        """Listen nowhere."""
        return 0

    def set_health(self, services: dict[str, bool]) -> None:
        """Tell nobody."""

    def change(self, settings: ServerSettings, rules: AccessRules, log: CallLog | None) -> None:
        """Keep what is changed."""
        self.changed = settings, rules, log

    def refusals(self) -> dict[str, int]:
        """Return none."""
        return {}

    def drain(self, grace: float) -> None:
        """Keep how long calls may take."""
        self.grace = grace


@dataclasses.dataclass
class Pool(HandPool):
    """A pool that keeps what it is changed to."""

    changed: PoolSettings = dataclasses.field(default_factory=PoolSettings)

    def change(self, settings: PoolSettings) -> None:
        """Keep the settings."""
        self.changed = settings


def test_what_is_taken_over_reaches_what_works_by_it(hostile_server: HostileServer) -> None:
    """Every key that a running service takes over comes to the front, the pool, or what else it is of."""
    hostile_server.respond = SyntheticRegistry("wine", "other")
    base: dict[str, Any] = {
        "registry": {"url": hostile_server.url, "snapshot_folder": "", "refresh_interval": 3600.0},
        "auth": {"tokens_file": ""},
        "server": {"tls": {}},
        "scoring": {"preload": []},
    }
    front, pool = Front(), Pool()
    application = Application(Settings.load(base, environment={}), front=front, pool=pool)
    application.start()
    try:
        assert application.ready.wait(30)
        read = hostile_server.respond.asked

        def pool_has(name: str) -> Callable[[], object]:
            return lambda: getattr(pool.changed, name)

        changes: dict[str, tuple[object, Callable[[], object]]] = {
            "server.max_calls": (7, lambda: front.changed and front.changed[0].max_calls),
            "server.max_inflight_bytes": (1 << 21, lambda: front.changed and front.changed[0].max_inflight_bytes),
            "quota.calls_in_flight": (7, lambda: front.changed and front.changed[2] and 7),
            "workers.memory_budget": (1 << 30, lambda: pool.changed.memory_budget),
            **{
                f"scoring.{field.name}": (3, pool_has(field.name))
                for field in dataclasses.fields(PoolSettings)
                if is_reloaded("scoring", field.name)
            },
        }
        changes["scoring.max_delay"] = (0.5, changes["scoring.max_delay"][1])
        values: dict[str, Any] = {**base, "registry": {**base["registry"], "exclude": ["other"]}}
        for key, (value, _) in changes.items():
            section, _, name = key.partition(".")
            values.setdefault(section, {})[name] = value
        values["server"] |= {"grace_period": 0.25, "max_decoded_bytes": 1 << 22}
        before = read["registered-models/search"]
        application.reload(lambda: Settings.load(values, environment={}))
        assert {key: probe() for key, (_, probe) in changes.items()} == {
            key: value for key, (value, _) in changes.items()
        }
        wait_until(lambda: read["registered-models/search"] > before)
    finally:
        application.stop()
    assert front.grace == 0.25
    # Shown elsewhere: by what a running service answers (tests/integration/test_reload.py), or of what keeps it.
    shown = {"scoring.preload", "scoring.max_batch_rows", "logging.level", "logging.format", "registry.signature_ttl"}
    shown |= {"server.grace_period", "server.max_decoded_bytes", "registry.include", "registry.exclude"}
    shown |= {"registry.refresh_interval", "access", "quota.rows_per_second"}
    shown |= {"logging.requests", "logging.slow_call_seconds", "api.timeout"}
    taken = {".".join(path) for path in KEYS if is_reloaded(".".join(path[:-1]), path[-1])} | {"access"}
    assert taken == changes.keys() | shown
    assert AccessRule.model_fields.keys() == {key for key in AccessRule.model_fields if is_reloaded("access", key)}
