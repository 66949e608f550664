"""Which version serves an alias while the registry's mind changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from prinz_enricher.catalog import CatalogVersion, Snapshot, resolve
from prinz_enricher.catalog.snapshot import Assembler, ModelFile
from prinz_enricher.registry import ModelVersion, RegisteredModel
from prinz_enricher.scoring.ports import Target, WorkerState
from prinz_enricher.service.targets import AliasRouter
from tests.scoring.scripted import FAST, PATIENCE, SIGNATURE, scripted, until
from tests.support.inline_pool import InlinePool, ScoreFunction


def offering(champion: str, *numbers: str, unread: str = "") -> Snapshot:
    """Make a snapshot of the model `wine` with an alias and some versions, one of which may not be read yet."""
    model = RegisteredModel("wine", "", {}, {"champion": champion}, 0, 0)
    versions = [ModelVersion("wine", n, "", {}, "READY", "", "", "", 0, 0) for n in numbers]
    files = {("wine", n): ModelFile(SIGNATURE) for n in numbers if n != unread}
    return Assembler().assemble([model], versions, files)


def target_of(version: CatalogVersion) -> Target | None:
    """Make the target of a version whose signature was read."""
    if version.signature is None:
        return None
    return Target(version.name, version.version, "http://mlflow", version.signature)


class World:
    """A pool whose versions load when they may, and the handover before it."""

    def __init__(self) -> None:
        self.may_load: dict[str, threading.Event] = {"1": threading.Event(), "2": threading.Event()}
        self.broken: set[str] = set()
        self.pool = InlinePool(self._find, FAST)
        self.handover = AliasRouter(self.pool, target_of)

    def _find(self, target: Target) -> ScoreFunction:
        assert self.may_load[target.version].wait(PATIENCE)
        if target.version in self.broken:
            raise ValueError
        return scripted

    def choose(self, snapshot: Snapshot, alias: str | None = "champion") -> str:
        """Tell which version serves an alias."""
        wanted = resolve(snapshot, "wine", alias=alias)
        return self.handover.choose(snapshot.models["wine"], alias, wanted).version

    def state(self, snapshot: Snapshot, number: str) -> WorkerState:
        """Tell where a version is in its life."""
        target = target_of(snapshot.models["wine"].by_number[number])
        assert target is not None
        return self.pool.status(target).state

    def load(self, snapshot: Snapshot, number: str) -> None:
        """Load a version, and wait until it is there."""
        self.may_load[number].set()
        target = target_of(snapshot.models["wine"].by_number[number])
        assert target is not None
        self.pool.load(target)
        until(lambda: self.state(snapshot, number) is WorkerState.AVAILABLE)


@pytest.fixture
def world() -> Iterator[World]:
    """A pool that ends with the test."""
    made = World()
    try:
        yield made
    finally:
        for event in made.may_load.values():
            event.set()
        made.pool.close(1.0)


FIRST = offering("1", "1", "2")
SECOND = offering("2", "1", "2")


def test_the_former_version_serves_until_the_new_one_can(world: World) -> None:
    """The new version begins to load at the first call after the move, and takes over once it is available."""
    world.load(FIRST, "1")
    assert world.choose(FIRST) == "1"
    assert world.choose(SECOND) == "1"
    assert world.state(SECOND, "2") is WorkerState.LOADING
    assert world.choose(SECOND) == "1"
    world.may_load["2"].set()
    until(lambda: world.choose(SECOND) == "2")
    assert world.choose(SECOND) == "2"


def test_the_new_version_is_loaded_without_a_call(world: World) -> None:
    """What the registry means by an alias in use is loaded as soon as it is known."""
    world.load(FIRST, "1")
    assert world.choose(FIRST) == "1"
    world.handover.follow(SECOND)
    assert world.state(SECOND, "2") is WorkerState.LOADING


def test_where_the_former_is_not_loaded_the_new_one_serves_at_once(world: World) -> None:
    """There is nothing to preserve: callers wait for the new version, and no other is loaded in vain."""
    assert world.choose(FIRST) == "1"
    assert world.choose(SECOND) == "2"
    assert world.state(SECOND, "1") is WorkerState.DISCOVERED


def test_a_former_version_that_is_gone_gives_way(world: World) -> None:
    """What the registry does not offer any more is not served."""
    world.load(FIRST, "1")
    assert world.choose(FIRST) == "1"
    assert world.choose(offering("2", "2")) == "2"


def test_a_new_version_that_can_not_be_loaded_leaves_the_former_serving(world: World) -> None:
    """Its state says why; callers go on with the last version that works."""
    world.load(FIRST, "1")
    world.broken.add("2")
    world.may_load["2"].set()
    assert world.choose(FIRST) == "1"
    assert world.choose(SECOND) == "1"
    until(lambda: world.state(SECOND, "2") is WorkerState.FAILED)
    assert world.choose(SECOND) == "1"
    world.broken.clear()
    until(lambda: world.choose(SECOND) == "2")


def test_a_new_version_whose_signature_is_not_read_yet_waits(world: World) -> None:
    """It can't be loaded before the catalog knows what it takes."""
    world.load(FIRST, "1")
    assert world.choose(FIRST) == "1"
    assert world.choose(offering("2", "1", "2", unread="2")) == "1"


def test_an_alias_that_moves_back_is_served_by_the_version_it_had(world: World) -> None:
    """Both are loaded, so that every move takes effect at once."""
    world.load(FIRST, "1")
    world.load(SECOND, "2")
    assert [world.choose(snapshot) for snapshot in (FIRST, SECOND, FIRST, SECOND)] == ["1", "2", "1", "2"]


def test_an_alias_that_was_never_called_has_no_former_version(world: World) -> None:
    """What serves one alias is no former version of another."""
    world.load(FIRST, "1")
    assert world.choose(FIRST) == "1"
    assert world.choose(SECOND, None) == "2"


def test_a_former_version_that_restarts_stays_before_one_that_can_not_be_loaded(world: World) -> None:
    """A moment without a worker does not hand callers to a version that does not work."""
    world.load(FIRST, "1")
    world.broken.add("2")
    world.may_load["2"].set()
    assert world.choose(FIRST) == "1"
    assert world.choose(SECOND) == "1"
    until(lambda: world.state(SECOND, "2") is WorkerState.FAILED)
    # Unloaded, as after a night without calls.
    world.pool.retain([])
    until(lambda: world.state(FIRST, "1") is WorkerState.DISCOVERED)
    until(lambda: world.choose(SECOND) == "1")
    assert world.choose(SECOND) == "1"


def test_a_former_version_that_was_never_loaded_does_not_come_back(world: World) -> None:
    """There is nothing to preserve, also where the new version fails before it is asked for again."""
    world.broken.add("2")
    world.may_load["2"].set()
    assert world.choose(FIRST) == "1"
    world.handover.follow(SECOND)
    until(lambda: world.state(SECOND, "2") is WorkerState.FAILED)
    assert world.choose(SECOND) == "2"
