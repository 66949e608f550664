"""What was in use is loaded again: in which order, how many at once, and what is kept meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from prinz_enricher.catalog import CatalogVersion, Member, Snapshot, UsedFile, UsedVersion
from prinz_enricher.catalog.snapshot import NOT_READ, Assembler, ModelFile
from prinz_enricher.catalog.union import _renamed
from prinz_enricher.registry import ModelVersion, RegisteredModel
from prinz_enricher.scoring.ports import Target, WorkerState
from prinz_enricher.service import in_use as in_use_module
from prinz_enricher.service.in_use import InUse
from tests.scoring.scripted import FAST, PATIENCE, SIGNATURE, Call, rows, scripted, until
from tests.support.inline_pool import InlinePool, ScoreFunction

ROOMY = replace(FAST, max_workers=8)


def offering(*numbers: str, champion: str = "", pending: str = "", created: int = 0) -> Snapshot:
    """Make a snapshot of the model `wine` with some versions, one of which may not be read yet."""
    model = RegisteredModel("wine", "", {}, {"champion": champion} if champion else {}, 0, 0)
    versions = [ModelVersion("wine", n, "", {}, "READY", "", "", "", created, 0) for n in numbers]
    files = {("wine", n): NOT_READ if n == pending else ModelFile(SIGNATURE) for n in numbers}
    return Assembler().assemble([model], versions, files)


@dataclass
class Registry:
    """A catalog with one member, which is its own."""

    current: Snapshot | None = None
    stale: bool = True
    name: str = ""
    prefix: str = ""

    @property
    def members(self) -> list[Registry]:
        """Itself."""
        return [self]

    @property
    def catalog(self) -> Registry:
        """Itself."""
        return self


def target_of(version: CatalogVersion) -> Target | None:
    """Make the target of a version whose signature was read."""
    if version.signature is None:
        return None
    fingerprint = str(version.created_ms)
    target = Target(version.name, version.version, "", version.signature, version.registry, version.registered_as)
    return replace(target, aliases=version.aliases, fingerprint=fingerprint)


@dataclass
class World:
    """A pool whose versions load when they may, and a file of what is in use."""

    folder: Path
    registry: Registry = field(default_factory=Registry)
    begun: list[str] = field(default_factory=list)
    may_load: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    broken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pool = InlinePool(self._find, ROOMY)
        self.file = UsedFile(self.folder / "catalog" / "registry.jsonl")

    def _find(self, target: Target) -> ScoreFunction:
        self.begun.append(target.version)
        assert self.may_load.acquire(timeout=PATIENCE)
        if target.version in self.broken:
            raise ValueError
        return scripted

    def again(self, *numbers: str, at_once: int = 8) -> InUse:
        """Start anew after versions were in use, as the registry offers them now."""
        snapshot = self.registry.current or offering(*numbers)
        self.file.save([in_use_module._used(self.target(number, snapshot)) for number in numbers])
        return self.made(at_once)

    def made(self, at_once: int = 8) -> InUse:
        """Make what is tested."""
        return InUse(cast(Any, self.registry), self.pool, target_of, {"": self.file}, at_once=at_once)

    def target(self, number: str, snapshot: Snapshot | None = None) -> Target:
        """Return the target of a version."""
        known = snapshot or self.registry.current
        assert known is not None
        target = target_of(known.models["wine"].by_number[number])
        assert target is not None
        return target

    def state(self, number: str) -> WorkerState:
        """Tell where a version is in its life."""
        return self.pool.status(self.target(number)).state

    def stored(self) -> set[str]:
        """Return the versions that a next process would load."""
        return {used.version for used in self.file.load()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world that ends."""
    world = World(tmp_path)
    yield world
    world.may_load.release(100)
    world.pool.close(PATIENCE)


def test_an_alias_comes_first_and_the_next_begins_when_one_has_ended(world: World) -> None:
    """At most so many load at once; one that fails ends as well, and is not in use any more."""
    world.registry.current = offering("1", "2", "3", "4", champion="3")
    world.broken.add("1")
    in_use = world.again("1", "2", "3", "4", at_once=2)
    in_use.load()
    in_use.load()
    until(lambda: len(world.begun) == 2)
    assert sorted(world.begun) == ["1", "3"]
    in_use.save(at_once=True)
    assert world.stored() == {"1", "2", "3", "4"}
    world.may_load.release(2)
    until(lambda: {world.state("1"), world.state("3")} == {WorkerState.FAILED, WorkerState.AVAILABLE})
    in_use.load()
    until(lambda: sorted(world.begun) == ["1", "2", "3", "4"])
    in_use.save(at_once=True)
    assert world.stored() == {"2", "3", "4"}


def test_a_call_does_not_wait_for_what_was_in_use(world: World) -> None:
    """Its version is loaded at once, and counts as one that loads."""
    world.registry.current = offering("1", "2")
    in_use = world.again("1", at_once=1)
    call = Call(world.pool, world.target("2"), rows(("", 1.0)))
    until(lambda: world.begun == ["2"])
    in_use.load()
    assert world.begun == ["2"]
    world.may_load.release(2)
    assert call.values() == [2.0]
    in_use.load()
    until(lambda: world.state("1") is WorkerState.AVAILABLE)


def test_another_model_under_the_same_number_is_not_loaded(world: World) -> None:
    """What a version that was deleted and made anew holds is no business of who called the former one."""
    in_use = world.again("1", "2")
    world.registry.current = offering("1", created=7)
    in_use.load()
    in_use.save(at_once=True)
    # The registry was not read yet: what is known of it may be older than what was in use.
    assert world.stored() == {"1", "2"}
    world.registry.stale = False
    in_use.load()
    in_use.save(at_once=True)
    assert world.begun == []
    assert world.stored() == set()


def test_a_signature_that_is_not_read_yet_is_waited_for(world: World) -> None:
    """As is a registry that is away; meanwhile nothing is forgotten."""
    in_use = world.again("1", "2")
    for current in (None, offering("1", "2", pending="1")):
        world.registry.current = current
        world.registry.stale = current is None
        in_use.load()
        in_use.save(at_once=True)
        assert world.stored() == {"1", "2"}
    until(lambda: world.begun == ["2"])
    world.registry.current = offering("1", "2")
    in_use.load()
    until(lambda: world.begun == ["2", "1"])


def test_each_registry_has_what_is_of_it(world: World) -> None:
    """A model is kept under its own name, and found by the prefix that it is served under; others are left alone."""
    member = Member("risk", "risk/", "", cast(Any, world.registry))
    served = _renamed(offering("1").models["wine"], member)
    world.registry.name, world.registry.prefix, world.registry.stale = "risk", "risk/", False
    world.registry.current = replace(offering("2"), models={"risk/wine": served, **offering("2").models})
    target = target_of(served.versions[0])
    assert target is not None
    world.may_load.release(2)
    world.pool.load(target)
    world.pool.load(world.target("2"))
    in_use = InUse(cast(Any, world.registry), world.pool, target_of, {"risk": world.file})
    in_use.save(at_once=True)
    (kept,) = world.file.load()
    assert (kept.name, kept.version) == ("wine", "1")
    world.pool.retain([])
    until(lambda: world.pool.status(target).state is WorkerState.DISCOVERED)
    again = InUse(cast(Any, world.registry), world.pool, target_of, {"risk": world.file})
    again.load()
    assert world.pool.used() == [target]


def test_a_hostile_list_has_models_of_the_catalog_loaded_at_most(world: World) -> None:
    """However much is in it."""
    world.registry.current, world.registry.stale = offering("1"), False
    known = in_use_module._used(world.target("1"))
    names = ["../../etc", "", "wine\x00", *map(str, range(9_000))]
    world.file.save([known, *(UsedVersion(name, "1", known.content) for name in names)])
    in_use = world.made()
    in_use.load()
    until(lambda: world.begun == ["1"])
    in_use.save(at_once=True)
    assert world.file.load() == {known}


def test_it_is_written_once_a_second(world: World) -> None:
    """The next time is told; what comes last is written at once; nobody writes where nothing is kept."""
    world.registry.current = offering("1")
    in_use = world.made()
    assert in_use.save() is None
    world.pool.load(world.target("1"))
    pause = in_use.save()
    assert pause is not None
    assert 0 < pause <= in_use_module.SAVE_SECONDS
    assert world.stored() == set()
    assert in_use.save(at_once=True) is None
    assert world.stored() == {"1"}
    assert InUse(cast(Any, world.registry), world.pool, target_of, {}).save() is None
