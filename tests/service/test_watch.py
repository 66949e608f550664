"""The events of one watch."""

from collections.abc import Iterator

import pytest
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.catalog import Catalog, CatalogModel, Member, Union
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import ResyncRequired
from prinz_enricher.registry import RegistryClient
from prinz_enricher.security.access import AccessRules
from prinz_enricher.service.catalog_view import CatalogView
from prinz_enricher.service.model_messages import MAX_BEHIND, WatchSource
from tests.support.hostile_server import HostileServer
from tests.support.synthetic_registry import SyntheticRegistry


class Watched:
    """A registry that the test changes, and a catalog that looks at it when it is told to."""

    def __init__(self, server: HostileServer, client: RegistryClient) -> None:
        self.registry = server.respond = SyntheticRegistry("a", "b")
        self.catalog = Catalog(client, refresh_interval=3600)
        self.union = Union([Member("", "", server.url, self.catalog)])
        self.woken = 0
        self.catalog.refresh()

    def watch(self, token: str = "") -> WatchSource:
        """Begin a watch."""
        view = CatalogView(self.union, AccessRules(()), None, "watch")
        return WatchSource(view, token, self._message, self._wake)

    def change(self, *names: str) -> None:
        """Give models a new description, and look."""
        for name in names:
            self.registry.models[name].description += "x"
        self.catalog.refresh()

    def _message(self, model: CatalogModel) -> model_pb2.Model:
        return model_pb2.Model(name=model.name, description=model.description)

    def _wake(self) -> None:
        self.woken += 1


@pytest.fixture
def watched(hostile_server: HostileServer) -> Iterator[Watched]:
    """A registry of two models."""
    with RegistryClient(hostile_server.url, timeout=5.0) as client:
        yield Watched(hostile_server, client)


def events(source: WatchSource) -> list[pb.WatchModelsResponse]:
    """Pull what there is."""
    found = []
    while isinstance(item := source.pull(), bytes):
        found.append(pb.WatchModelsResponse.FromString(item))
    return found


def told(event: pb.WatchModelsResponse) -> tuple[str, str]:
    """Return the kind of an event, and the name of its model."""
    kind = event.WhichOneof("event") or ""
    names = {"added": event.added.name, "changed": event.changed.name, "removed_name": event.removed_name}
    return kind, names.get(kind, "")


def test_all_then_a_bookmark_then_changes(watched: Watched) -> None:
    """A watch begins with every model and a bookmark; then each change comes once, as the right event."""
    source = watched.watch()
    first = events(source)
    assert [told(event) for event in first] == [("added", "a"), ("added", "b"), ("bookmark", "")]
    assert first[-1].bookmark.catalog_revision == watched.catalog.snapshot().revision
    assert [bool(event.resume_token) for event in first] == [False, False, True]
    assert events(source) == []

    watched.registry.add("c")
    watched.registry.remove("a")
    watched.change("b")

    assert watched.woken == 1
    second = events(source)
    assert [told(event) for event in second] == [("removed_name", "a"), ("changed", "b"), ("added", "c")]
    assert second[1].changed.description == "x"
    assert events(source) == []
    source.close()


def test_a_watch_is_resumed_where_it_was_cut_off(watched: Watched) -> None:
    """The last token leads to what was missed and nothing else; one from between two changes repeats the first."""
    source = watched.watch()
    start = events(source)[-1].resume_token
    watched.change("a")
    watched.change("a", "b")
    seen = events(source)
    source.close()
    assert [told(event) for event in seen] == [("changed", "a"), ("changed", "a"), ("changed", "b")]

    watched.change("b")

    assert [told(e) for e in events(watched.watch(start))] == [*map(told, seen), ("changed", "b"), ("bookmark", "")]
    assert [told(e) for e in events(watched.watch(seen[0].resume_token))] == [
        ("changed", "a"), ("changed", "b"), ("changed", "b"), ("bookmark", ""),
    ]  # fmt: skip
    assert seen[1].resume_token == seen[0].resume_token
    assert [told(e) for e in events(watched.watch(seen[2].resume_token))] == [("changed", "b"), ("bookmark", "")]


def test_a_token_that_leads_nowhere(watched: Watched) -> None:
    """A token that is none of ours is refused."""
    with pytest.raises(ResyncRequired):
        watched.watch("nonsense")


def test_a_watch_that_falls_behind(watched: Watched) -> None:
    """A caller that does not read is cut off once it is too far behind, and keeps nothing; others go on."""
    slow, quick = watched.watch(), watched.watch()
    events(slow), events(quick)
    for _ in range(MAX_BEHIND + 1):
        watched.change("a")
        assert [told(event) for event in events(quick)] == [("changed", "a")]

    end = slow.pull()

    assert isinstance(end, status_pb2.Status)
    info = error_details_pb2.ErrorInfo()
    assert end.details[0].Unpack(info)
    assert info.reason == "OVERLOADED"
    slow.close()
    watched.change("a")
    assert [told(event) for event in events(quick)] == [("changed", "a")]
