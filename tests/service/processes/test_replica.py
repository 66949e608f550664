"""What a front process knows of the catalog is what the main process does, tokens included."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from prinz_enricher.catalog import CatalogModel, CatalogVersion, Publisher, Snapshot
from prinz_enricher.errors import RegistryUnavailable, ResyncRequired
from prinz_enricher.service.processes.begin import CatalogChange, Registry
from prinz_enricher.service.processes.frames import FrameReader, Kind
from prinz_enricher.service.processes.replica import CatalogReplica, SharedChoice
from prinz_enricher.service.processes.sender import Sender
from prinz_enricher.signature import Signature

HERE = Registry("", "", "http://registry", 0.0, "")


def model(name: str, *numbers: str, description: str = "") -> CatalogModel:
    """Make a model."""
    versions = tuple(
        CatalogVersion(name, number, (), "", {}, "READY", (), "", "", 0, 0, Signature((), ())) for number in numbers
    )
    return CatalogModel(
        name, description, {}, {}, versions, 0, 0, fingerprint=f"{name} {numbers} {description}".encode()
    )


def snapshot(*models: CatalogModel) -> Snapshot:
    """Make a snapshot, with a revision by its content."""
    told = " ".join(one.fingerprint.decode() for one in models)
    return Snapshot("http://registry", told.replace(" ", "").ljust(4, "0"), {one.name: one for one in models})


class Main:
    """The main process's catalog, and what it still owes the front process."""

    def __init__(self) -> None:
        self.publisher = Publisher()
        self.owed: list[bytes] = []

    def publish(self, new: Snapshot) -> None:
        """Publish a snapshot; the front process is not told yet."""
        change = CatalogChange.between(self.publisher.current, new)
        self.publisher.publish(new)
        self.owed.append(pickle.dumps(change))

    def pay(self, replica: CatalogReplica) -> None:
        """Tell the front process."""
        for change in self.owed:
            replica.take_change(pickle.loads(change))  # noqa: S301 - made here
        self.owed = []


@contextmanager
def replica_of(main: Main) -> Iterator[CatalogReplica]:
    """Give a replica that is told what is owed when it asks for it."""
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here)
        replica = CatalogReplica(pickle.loads(pickle.dumps(main.publisher.copy())), (HERE,), sender)  # noqa: S301

        def answer() -> None:
            reader = FrameReader(there)
            while (frame := reader.read()) is not None:
                assert frame.kind is Kind.SYNC
                main.pay(replica)
                replica.synced(frame.id)

        thread = threading.Thread(target=answer)
        thread.start()
        yield replica
        sender.close()
        thread.join(30)


def test_unchanged_models_stay_the_same_objects() -> None:
    """A snapshot comes over as what has changed; all else is the same object as before."""
    main = Main()
    main.publish(snapshot(model("a", "1"), model("b", "1")))
    main.owed = []
    with replica_of(main) as replica:
        before = replica.snapshot()
        assert before == main.publisher.current
        main.publish(snapshot(main.publisher.current.models["a"], model("b", "2", "1"), model("c", "1")))
        main.pay(replica)
        after = replica.snapshot()
        assert after == main.publisher.current
        assert after.names == ("a", "b", "c")
        assert after.models["a"] is before.models["a"]
        main.publish(snapshot(model("c", "1")))
        main.pay(replica)
        assert replica.snapshot().names == ("c",)


def test_tokens_of_other_processes() -> None:
    """A page or a watch goes on here that began elsewhere, before or after this process was started or told."""
    main = Main()
    main.publish(snapshot(model("a", "1")))
    old = main.publisher.watch("", lambda _: None).token
    main.publish(snapshot(model("a", "1"), model("b", "1")))
    main.owed = []
    with replica_of(main) as replica:
        news = replica.watch(old, lambda _: None)
        assert [change.name for one in news.missed for change in one.changes] == ["b"]

        main.publish(snapshot(model("b", "1")))
        new = main.publisher.watch("", lambda _: None).token
        revision = main.publisher.current.revision  # type: ignore[union-attr]
        assert replica.watch(new, lambda _: None).missed == ()
        found = replica.find(revision)
        assert found is not None
        assert found.names == ("b",)
        assert replica.watch("", lambda _: None).token == new
        with pytest.raises(ResyncRequired):
            replica.watch("none", lambda _: None)
        assert replica.find("never was") is None


def test_a_registry_that_was_never_read() -> None:
    """A model may be there all the same while its registry was never read, and then nothing is known without one."""
    here, there = socket.socketpair()
    with here, there:
        sender = Sender(here)
        away = Registry("b", "b.", "http://away", None, "it is down")
        replica = CatalogReplica(Publisher(), (away, HERE), sender)
        with pytest.raises(RegistryUnavailable, match="http://away is not available: it is down"):
            replica.snapshot()
        why = replica.unknown("b.wine")
        assert why is not None
        assert why.metadata == {"registry": "http://away", "why": "it is down"}
        assert replica.unknown("wine") is None
        replica.take_registries((Registry("b", "b.", "http://away", 1.0, ""), HERE))
        assert replica.unknown("b.wine") is None
        sender.close()


def test_the_main_process_says_which_version_serves_an_alias() -> None:
    """An alias that is in use is served by the version that the main process says, in every process."""
    here, there = socket.socketpair()
    with here, there:
        sender, reader = Sender(here), FrameReader(there)
        wine = model("wine", "3", "2", "1")
        first, second = wine.by_number["1"], wine.by_number["2"]
        choice = SharedChoice({}, sender)

        # Nobody has called it: what the registry means, and the main process is told, once.
        assert choice.choose(wine, "live", second) is second
        assert choice.choose(wine, "live", second) is second
        choice.take({("wine", "live"): "1"})
        assert choice.choose(wine, "live", second) is first
        assert choice.choose(wine, None, second) is second
        choice.take({("wine", "live"): "2"})
        assert choice.choose(wine, "live", second) is second
        # One that is not offered any more gives way.
        assert choice.choose(model("wine", "3"), "live", wine.by_number["3"]) is wine.by_number["3"]
        choice.take({})
        assert choice.choose(wine, "live", second) is second
        sender.close()
        told = []
        while (frame := reader.read()) is not None:
            told.append((frame.kind, frame.meta["model"], frame.meta["alias"]))
        assert told == [(Kind.USED, "wine", "live"), (Kind.USED, "wine", None), (Kind.USED, "wine", "live")]
