"""What changed, what is remembered of it, and who is told."""

import base64
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog.publisher import (
    Change,
    ChangeKind,
    ChangeSet,
    History,
    Position,
    Publisher,
    diff,
    read_token,
)
from prinz_enricher.catalog.snapshot import Assembler, Snapshot
from prinz_enricher.errors import ResyncRequired
from prinz_enricher.registry import RegisteredModel

MODELS = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2))
"""Names, and what else there is of each."""


def make_snapshot(**models: int) -> Snapshot:
    """Return a snapshot of models; the number stands for all that may change in one."""
    return Assembler().assemble(
        [RegisteredModel(name, "", {}, {}, number, 0) for name, number in models.items()], [], {}
    )


def named(changes: tuple[Change, ...]) -> list[str]:
    """Return changes in short."""
    return [f"{change.kind} {change.name}" for change in changes]


def apply(models: dict[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
    """Return what a watcher knows after some changes; it never sees one that does not fit."""
    models = dict(models)
    for change in changes:
        assert (change.name in models) == (change.kind is not ChangeKind.ADDED)
        if change.kind is ChangeKind.REMOVED:
            del models[change.name]
        else:
            models[change.name] = change.model
    return models


def test_each_kind() -> None:
    """What is gone comes first, then what is there, by name."""
    old, new = make_snapshot(a=1, b=1, c=1, d=1), make_snapshot(b=2, c=1, aa=1, z=1)
    assert named(diff(old, new)) == ["removed a", "removed d", "added aa", "changed b", "added z"]
    assert named(diff(None, new)) == ["added aa", "added b", "added c", "added z"]
    assert diff(new, make_snapshot(b=2, c=1, aa=1, z=1)) == ()


@given(MODELS, MODELS)
def test_changes_lead_from_old_to_new(before: dict[str, int], after: dict[str, int]) -> None:
    """Who knew the old snapshot and takes the changes in knows the new one; nothing is told without need."""
    old, new = make_snapshot(**before), make_snapshot(**after)
    changes = diff(old, new)
    assert apply(dict(old.models), changes) == new.models
    assert (
        len(changes)
        == len({c.name for c in changes})
        == sum(before.get(name) != after.get(name) for name in before | after)
    )


def follow(history: History, *snapshots: Snapshot) -> list[ChangeSet]:
    """Append snapshots one after the other, as a process does from its start."""
    return [history.append(old, new) for old, new in zip([None, *snapshots[:-1]], snapshots, strict=True)]


def test_history_resumes_at_any_revision() -> None:
    """A token of each revision that is kept leads to the newest."""
    history = History()
    sets = follow(history, *(make_snapshot(a=number) for number in range(5)))
    for index, one in enumerate(sets):
        assert history.since(read_token(one.position.token())) == tuple(sets[index + 1 :])


def test_history_is_bounded() -> None:
    """Revisions that are too many, or have too many changes, are not known any more."""
    history = History(2)
    sets = follow(history, *(make_snapshot(a=number) for number in range(5)))
    assert [history.since(one.position) is None for one in sets] == [True, True, False, False, False]
    history = History(max_changes=4)
    sets = follow(history, *(make_snapshot(a=number, b=number) for number in range(5)))
    assert [history.since(one.position) is None for one in sets] == [True, True, False, False, False]


def test_token_of_another_process() -> None:
    """Another process goes on where it has had the same revision; the content is the same then."""
    ours, theirs = History(), History()
    sets = follow(ours, *(make_snapshot(a=number) for number in (1, 2, 3)))
    others = follow(theirs, *(make_snapshot(a=number) for number in (7, 2, 5)))
    assert ours.since(others[1].position) == (sets[2],)
    assert ours.since(others[0].position) is None
    assert ours.since(others[2].position) is None


def test_revision_that_came_again() -> None:
    """A token means its own place, though the catalog has been the same before and after; another's means the last."""
    history, other = History(), History()
    sets = follow(history, *(make_snapshot(a=number) for number in (1, 2, 1, 3)))
    (same,) = follow(other, make_snapshot(a=1))
    assert history.since(sets[0].position) == tuple(sets[1:])
    assert history.since(sets[2].position) == (sets[3],)
    assert history.since(same.position) == (sets[3],)


def test_no_place_before_the_first_snapshot() -> None:
    """A history that knows nothing resumes nothing."""
    assert History().since(Position("0123456789abcdef", 0, "")) is None


@given(st.one_of(st.text(max_size=300), st.binary(max_size=80).map(lambda b: base64.urlsafe_b64encode(b).decode())))
def test_token_from_nowhere(token: str) -> None:
    """What is no token is refused."""
    with pytest.raises(ResyncRequired):
        read_token(token)


def test_changed_token() -> None:
    """A token with any character changed, or cut off, is refused."""
    token = Position("0123456789abcdef", 7, "a" * 32).token()
    assert read_token(token) == Position("0123456789abcdef", 7, "a" * 32)
    for index in range(len(token)):
        for text in (token[:index], token[:index] + ("A" if token[index] != "A" else "B") + token[index + 1 :]):
            with pytest.raises(ResyncRequired):
                read_token(text)


@pytest.fixture
def publisher() -> Publisher:
    """A publisher with a first snapshot."""
    publisher = Publisher()
    publisher.publish(make_snapshot(a=0))
    return publisher


def test_watch_begins_with_all(publisher: Publisher) -> None:
    """A new watch has the snapshot, then each change once, until it is ended."""
    told: list[ChangeSet] = []
    watch = publisher.watch("", told.append)
    assert (watch.snapshot, watch.missed) == (publisher.current, ())
    publisher.publish(make_snapshot(a=1))
    publisher.publish(make_snapshot(a=1))
    publisher.publish(make_snapshot())
    assert [named(one.changes) for one in told] == [["changed a"], ["removed a"]]
    watch.end()
    publisher.publish(make_snapshot(a=1))
    assert len(told) == 2


def test_watch_is_resumed(publisher: Publisher) -> None:
    """A watch that was cut off gets what it missed, then what comes; one from too long ago begins anew."""
    first = publisher.watch("", lambda _: None)
    first.end()
    publisher.publish(make_snapshot(a=1))
    told: list[ChangeSet] = []
    again = publisher.watch(first.token, told.append)
    assert again.snapshot is None
    assert [named(one.changes) for one in again.missed] == [["changed a"]]
    assert again.token == again.missed[-1].position.token()
    publisher.publish(make_snapshot(a=2))
    assert told[-1].position.token() == publisher.watch("", told.append).token
    with pytest.raises(ResyncRequired):
        publisher.watch(Position("fedcba9876543210", 1, "f" * 32).token(), told.append)


def test_listener_that_fails_harms_no_other(publisher: Publisher) -> None:
    """What one listener raises is logged, and the others are told."""
    told: list[ChangeSet] = []

    def fail(_: ChangeSet) -> None:
        raise RuntimeError("a listener fails")

    publisher.watch("", fail)
    publisher.watch("", told.append)
    publisher.publish(make_snapshot(a=1))
    assert len(told) == 1


def test_watches_lose_and_double_nothing_while_all_changes(publisher: Publisher) -> None:
    """Watches that begin and resume at any moment know in the end what the catalog knows."""
    ended = threading.Event()
    faults: list[str] = []

    def watch_again_and_again() -> None:
        models: dict[str, Any] = {}
        token = ""
        while True:
            last = ended.is_set()
            told: list[ChangeSet] = []
            watch = publisher.watch(token, told.append)
            if watch.snapshot is not None:
                models = dict(watch.snapshot.models)
            for one in watch.missed:
                models = apply(models, one.changes)
            watch.end()
            token = watch.token
            for one in told:
                models = apply(models, one.changes)
                token = one.position.token()
            if last:
                if publisher.current is None or models != publisher.current.models:
                    faults.append(f"{sorted(models)}")
                return

    threads = [threading.Thread(target=watch_again_and_again) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(200):
        publisher.publish(make_snapshot(**{chr(97 + n): number for n in range(number % 7)}))
    ended.set()
    for thread in threads:
        thread.join()
    assert faults == []
