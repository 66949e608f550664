"""Several registries as one catalog."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from prinz_enricher.catalog import Catalog, ChangeSet, Member, Union
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry import RegistryClient
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer
from tests.support.synthetic_registry import SyntheticRegistry

AWAY = Answer(b"", 503)


class Registries:
    """Two registries that have a model of the same name, and their union."""

    def __init__(self, stack: ExitStack, prefixes: tuple[str, str]) -> None:
        self.registries = (SyntheticRegistry("wine", "fraud"), SyntheticRegistry("wine"))
        self.servers: list[HostileServer] = []
        members = []
        for name, prefix, registry in zip(("", "risk"), prefixes, self.registries, strict=True):
            server = stack.enter_context(HostileServer())
            server.respond = registry
            client = stack.enter_context(RegistryClient(server.url, timeout=5.0))
            self.servers.append(server)
            members.append(Member(name, prefix, server.url, Catalog(client, refresh_interval=0.05)))
        self.union = Union(members)
        stack.callback(self.union.stop)

    def names(self) -> list[str]:
        """Return the names that are served."""
        return list(self.union.snapshot().models)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is closed in the end."""
    with ExitStack() as opened:
        yield opened


def test_prefixes_tell_models_apart(stack: ExitStack) -> None:
    """Each model is served under its registry's prefix, and knows its own name and registry."""
    two = Registries(stack, ("", "risk/"))
    two.union.start()
    assert two.union.ready.wait(20)

    models = two.union.snapshot().models

    assert list(models) == ["fraud", "risk/wine", "wine"]
    (version,) = models["risk/wine"].versions
    assert (version.name, version.registered_name) == ("risk/wine", "wine")
    assert two.union.url_of(version) == two.servers[1].url
    assert two.union.url_of(models["wine"].versions[0]) == two.servers[0].url
    assert two.union.age() < 20
    assert set(two.union.states()) == {"", "risk"}


def test_unchanged_models_are_the_same_objects(stack: ExitStack) -> None:
    """A change in one registry makes no new objects of the others' models, so that nothing is written anew for them."""
    two = Registries(stack, ("main/", "risk/"))
    two.union.start()
    assert two.union.ready.wait(20)
    before = two.union.snapshot()

    two.registries[0].add("new")
    wait_until(lambda: "main/new" in two.union.snapshot().models)

    after = two.union.snapshot()
    assert after.revision != before.revision
    assert all(after.models[name] is model for name, model in before.models.items())


def test_a_change_is_told_once(stack: ExitStack) -> None:
    """A watch of the union sees each registry's changes once, under the names that are served."""
    two = Registries(stack, ("", "risk/"))
    two.union.start()
    assert two.union.ready.wait(20)
    told: list[ChangeSet] = []
    watch = two.union.watch("", told.append)
    assert watch.snapshot is not None

    two.registries[1].models["wine"].aliases["champion"] = "1"
    wait_until(lambda: bool(told))
    two.registries[1].remove("wine")
    wait_until(lambda: len(told) == 2)

    assert [[(change.kind.value, change.name) for change in one.changes] for one in told] == [
        [("changed", "risk/wine")],
        [("removed", "risk/wine")],
    ]
    watch.end()


def test_a_registry_that_is_away_hides_only_its_own(stack: ExitStack) -> None:
    """The others are served; what may be in the one that was never read is unavailable, not unknown; it catches up."""
    two = Registries(stack, ("main/", "risk/"))
    two.servers[1].respond = lambda _: AWAY
    two.union.start()
    assert two.union.ready.wait(20)

    assert two.names() == ["main/fraud", "main/wine"]
    assert two.union.stale
    assert two.union.unknown("main/none") is None
    why = two.union.unknown("risk/wine")
    assert isinstance(why, RegistryUnavailable)
    assert two.servers[1].url in why.message
    two.servers[1].respond = two.registries[1]
    wait_until(lambda: "risk/wine" in two.names())
    assert two.union.unknown("risk/none") is None
    wait_until(lambda: not two.union.stale)


def test_all_are_away(stack: ExitStack) -> None:
    """Without any registry there is nothing to serve, and no readiness."""
    two = Registries(stack, ("main/", "risk/"))
    for server in two.servers:
        server.respond = lambda _: AWAY
    two.union.start()
    wait_until(lambda: all(state.refreshes > 0 for state in two.union.states().values()))

    assert not two.union.ready.is_set()
    with pytest.raises(RegistryUnavailable):
        two.union.snapshot()


def test_the_first_of_two_equal_names_is_served(stack: ExitStack) -> None:
    """Where prefixes do not tell two models apart, the first is served, and the other is named as a fault."""
    two = Registries(stack, ("", "w"))
    two.registries[1].add("ine")
    two.union.start()
    assert two.union.ready.wait(20)
    wait_until(lambda: bool(two.union.snapshot().faults))

    snapshot = two.union.snapshot()

    assert list(snapshot.models) == ["fraud", "wine", "wwine"]
    assert snapshot.models["wine"].versions[0].registry == ""
    assert any('"ine" of the registry "risk" is hidden' in fault for fault in snapshot.faults)
