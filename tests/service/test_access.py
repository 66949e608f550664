"""What a caller may list, describe, score and watch; a model that it has no right to does not exist for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from google.rpc import status_pb2

from prinz_enricher.catalog import Catalog, Member, Union
from prinz_enricher.catalog.publisher import Position
from prinz_enricher.config import Settings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.errors import ModelNotFound, RegistryUnavailable
from prinz_enricher.registry import RegistryClient
from prinz_enricher.security.access import AccessRules
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.catalog_view import CatalogView
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.service.targets import Targets
from tests.support.gathering import HandPool
from tests.support.guarded_service import (
    WAIT,
    GuardedService,
    events_of,
    model_of,
    reason_of,
    rule,
    score_request,
    signature_request,
)

NK, OPS, NOBODY = Principal("nk"), Principal("ops"), Principal("nobody")

RULES = (
    rule("nk", "fraud-*"),
    rule("nk", "wine", "list"),
    rule("nk", "blind", "score"),
    rule("ops", "*"),
)


@pytest.fixture
def guarded() -> Iterator[GuardedService]:
    """A service of several models, of which `nk` may see some."""
    with GuardedService("blind", "fraud-a", "fraud-b", "secret-1", "secret-2", "wine", rules=RULES) as service:
        yield service


def listed(service: GuardedService, principal: Principal | None, **request: object) -> list[str]:
    """Return the names that are listed."""
    response = service.one(principal, pb.ListModelsRequest(**request))  # type: ignore[arg-type]  # the fields of it
    assert isinstance(response, pb.ListModelsResponse), response
    return [model.name for model in response.models]


def test_each_caller_lists_its_own_models(guarded: GuardedService) -> None:
    """A list has what its caller may list, whatever the filter; whoever has no rules, or no name, has an empty one."""
    assert listed(guarded, NK) == ["fraud-a", "fraud-b", "wine"]
    assert listed(guarded, NK, filter='name LIKE "secret%"') == []
    assert listed(guarded, OPS) == ["blind", "fraud-a", "fraud-b", "secret-1", "secret-2", "wine"]
    assert listed(guarded, NOBODY) == listed(guarded, None) == []


@pytest.mark.parametrize("selector", [{}, {"version": "1"}, {"version": "99"}, {"alias": "champion"}, {"alias": "x"}])
def test_a_hidden_model_is_as_one_that_is_not_there(guarded: GuardedService, selector: dict[str, str]) -> None:
    """The errors about both are the same but for the name, however it is asked for, alone or together with others."""
    for request in (signature_request, lambda name, **of: score_request(name, 1.0, **of)):
        hidden, missing = guarded.ask(NK, request("secret-1", **selector), request("secret-9", **selector))
        assert isinstance(hidden, status_pb2.Status)
        assert isinstance(missing, status_pb2.Status)
        assert reason_of(hidden) == "MODEL_NOT_FOUND"
        assert hidden.SerializeToString().replace(b"secret-1", b"secret-9") == missing.SerializeToString()


def test_rights_are_apart(guarded: GuardedService) -> None:
    """What may be listed alone is MODEL_FORBIDDEN for the rest; a right to score needs none to list."""
    outcomes = guarded.ask(
        NK,
        score_request("wine", 1.0),
        signature_request("wine"),
        score_request("blind", 1.0),
        signature_request("blind"),
        score_request("fraud-a", 1.0),
        signature_request("fraud-a"),
        # There is none, which the caller may know.
        score_request("fraud-z", 1.0),
    )
    assert [reason_of(outcome) for outcome in outcomes] == [
        "MODEL_FORBIDDEN",
        "MODEL_FORBIDDEN",
        "OK",
        "MODEL_NOT_FOUND",
        "OK",
        "OK",
        "MODEL_NOT_FOUND",
    ]


def test_a_model_that_is_not_there_is_not_forbidden() -> None:
    """Who may list any model hears of a misspelt name that there is none, not that it lacks a right."""
    with GuardedService("wine", rules=[rule("nk", "*", "list")]) as service:
        outcomes = service.ask(NK, score_request("wine", 1.0), score_request("wien", 1.0))
    assert [reason_of(outcome) for outcome in outcomes] == ["MODEL_FORBIDDEN", "MODEL_NOT_FOUND"]


def test_signatures_are_for_who_may_describe(guarded: GuardedService) -> None:
    """Neither a list nor a watch shows the signature of a model that its caller may list or watch alone."""
    full = pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL)
    for principal, shown in ((NK, ["fraud-a", "fraud-b"]), (OPS, listed(guarded, OPS))):
        response = guarded.one(principal, full)
        assert [model.name for model in response.models if model.versions[0].HasField("signature")] == shown
    with GuardedService("wine", rules=[rule("nk", "*", "watch")]) as service:
        [added, _] = events_of(service.watch(NK, full=True))
    assert added.added.name == "wine"
    assert not added.added.versions[0].HasField("signature")


def test_pages_of_a_caller(guarded: GuardedService) -> None:
    """Pages have no gaps where models are hidden, and go on while what is hidden changes."""
    first = guarded.one(NK, pb.ListModelsRequest(page_size=2))
    guarded.catalog.change(model_of("fraud-az-secret-not"), model_of("secret-3"), removed=["secret-1"])
    second = guarded.one(NK, pb.ListModelsRequest(page_size=2, page_token=first.next_page_token))
    assert [model.name for model in (*first.models, *second.models)] == ["fraud-a", "fraud-b", "wine"]
    assert second.next_page_token == ""
    assert first.catalog_revision == second.catalog_revision


def test_the_page_token_of_another_caller(guarded: GuardedService) -> None:
    """It is INVALID_PAGE_TOKEN, also for one of the same name with other groups, and without any rules."""
    token = guarded.one(OPS, pb.ListModelsRequest(page_size=2)).next_page_token
    for other in (NK, Principal("ops", ("risk",)), None):
        assert (
            reason_of(guarded.one(other, pb.ListModelsRequest(page_size=2, page_token=token))) == "INVALID_PAGE_TOKEN"
        )
    with GuardedService("a", "b") as free:
        token = free.one(OPS, pb.ListModelsRequest(page_size=1)).next_page_token
        assert reason_of(free.one(NK, pb.ListModelsRequest(page_token=token))) == "INVALID_PAGE_TOKEN"
        assert listed(free, OPS, page_token=token) == ["b"]


def test_nothing_shows_that_hidden_models_change(guarded: GuardedService) -> None:
    """The revision of a list stays, and a watch has no event, not even a bookmark."""
    before = guarded.one(NK, pb.ListModelsRequest()).catalog_revision
    source = guarded.watch(NK)
    names = [event.added.name for event in events_of(source)]
    guarded.catalog.change(model_of("secret-1", "changed"), model_of("secret-3"), model_of("blind", "changed"))
    guarded.catalog.change(removed=["secret-2", "wine"])
    assert names == ["fraud-a", "fraud-b", ""]
    assert events_of(source) == []
    guarded.catalog.change(model_of("wine"), model_of("fraud-b", "changed"), removed=["secret-3"])
    [event] = events_of(source)
    assert event.changed.name == "fraud-b"
    guarded.catalog.change(model_of("fraud-b"))
    assert guarded.one(NK, pb.ListModelsRequest()).catalog_revision == before


def test_a_watch_is_resumed_by_its_caller_alone(guarded: GuardedService) -> None:
    """A token leads its caller to what it missed and may see, and is RESYNC_REQUIRED for any other."""
    source = guarded.watch(NK)
    token = events_of(source)[-1].resume_token
    for _ in range(20):
        guarded.catalog.change(model_of("secret-1", "x"), model_of("fraud-a", "x"))
        guarded.catalog.change(model_of("secret-1", "y"), model_of("fraud-a", "y"))
    later = events_of(source)[-1].resume_token
    assert [event.changed.name for event in events_of(guarded.watch(NK, token))] == ["fraud-a"] * 40 + [""]
    assert [event.changed.name for event in events_of(guarded.watch(NK, later))] == [""]
    view = CatalogView(guarded.catalog, guarded.targets.rules, NK, "watch")
    positions = [Position("0" * 16, counter, "1" * 32).token() for counter in (1, 10**12)]
    assert len({len(view.resume_token(position)) for position in positions}) == 1
    for other in (OPS, NOBODY, None, Principal("nk", ("risk",))):
        assert reason_of(guarded.watch(other, token)) == "RESYNC_REQUIRED"
    # A position as it is without rules is none of theirs either, nor one that was altered.
    position = guarded.catalog.watch("", lambda _: None).token
    for forged in (position, token[:-2] + "AA", token[:20], "é", "A"):
        assert reason_of(guarded.watch(NK, forged)) == "RESYNC_REQUIRED"


def test_a_slow_watcher_is_not_behind_by_what_is_hidden(guarded: GuardedService) -> None:
    """Changes of hidden models do not count as what a caller has not read."""
    source = guarded.watch(NK)
    events_of(source)
    for number in range(600):
        guarded.catalog.change(model_of("secret-1", str(number)))
    guarded.catalog.change(model_of("fraud-a", "changed"))
    assert [event.changed.name for event in events_of(source)] == ["fraud-a"]


def test_a_registry_that_was_never_read_shows_to_nobody_without_rights() -> None:
    """Whoever may have nothing there hears that there is no such model, and neither its prefix nor its URL."""
    settings = Settings.load({}, environment={}).model_copy(update={"access": RULES})
    with RegistryClient("http://127.0.0.1:9", timeout=1.0) as client:
        catalog = Catalog(client)
        union = Union([Member("risk", "secret-", "http://127.0.0.1:9", catalog)])
        targets = Targets(union, HandPool(), settings)
        with pytest.raises(ModelNotFound):
            targets.resolve(model_pb2.ModelRef(name="secret-1"), NK, "score")
        with pytest.raises(RegistryUnavailable):
            targets.resolve(model_pb2.ModelRef(name="secret-1"), OPS, "score")


def test_callers_of_one_group(guarded: GuardedService) -> None:
    """Calls of several callers that are scored together each have their own answer, or their own refusal."""
    # The second time they are read by a template.
    for turn in range(2):
        calls = [
            (principal, score_request(name, float(number)))
            for number in range(20)
            for principal in (NK, OPS, NOBODY, None)
            for name in ("fraud-a", "secret-1")
        ]
        outcomes = guarded.ask_each(calls)
        for (principal, request), outcome in zip(calls, outcomes, strict=True):
            allowed = principal is OPS or (principal is NK and request.model.name == "fraud-a")
            if not allowed:
                assert reason_of(outcome) == "MODEL_NOT_FOUND", turn
                continue
            assert isinstance(outcome, bytes)
            [half] = pb.ScoreResponse.FromString(outcome).columns.columns[0].doubles.values
            assert half == request.columns.columns[0].doubles.values[0] / 2


OTHER_RULES = (rule("nk", "fraud-b wine", "list watch score"), rule("ops", "*"))
LIMITS = Limits(10_000, 1 << 24)


def test_other_rules(guarded: GuardedService) -> None:
    """They count from the next call on, whatever was known of a caller before; what was given by the former ends."""
    for request in (score_request("fraud-a", 1.0), score_request("wine", 1.0)):
        guarded.ask(NK, *[request] * 3)
    page = guarded.one(NK, pb.ListModelsRequest(page_size=2))
    source, other = guarded.watch(NK), guarded.watch(OPS)
    token = events_of(source)[-1].resume_token
    events_of(other)

    guarded.service.change(LIMITS, AccessRules(OTHER_RULES))

    outcomes = guarded.ask(NK, *[score_request("fraud-a", 1.0)] * 3, *[score_request("wine", 1.0)] * 3)
    assert [reason_of(outcome) for outcome in outcomes] == ["MODEL_NOT_FOUND"] * 3 + ["OK"] * 3
    assert listed(guarded, NK) == ["fraud-b", "wine"]
    again = guarded.one(NK, pb.ListModelsRequest(page_token=page.next_page_token))
    assert reason_of(again) == "INVALID_PAGE_TOKEN"
    for watch in (source, other):
        assert not isinstance(watch, status_pb2.Status)
        assert reason_of(watch.pull()) == "RESYNC_REQUIRED"
        watch.close()
    assert reason_of(guarded.watch(NK, token)) == "RESYNC_REQUIRED"
    assert [event.added.name for event in events_of(guarded.watch(NK))] == ["fraud-b", "wine", ""]


def test_the_same_rules_end_no_watch(guarded: GuardedService) -> None:
    """Who reads rules again that have not changed ends nothing."""
    source = guarded.watch(NK)
    events_of(source)
    guarded.service.change(LIMITS, AccessRules(RULES))
    guarded.catalog.change(model_of("fraud-b", "changed"))
    assert [event.changed.name for event in events_of(source)] == ["fraud-b"]


def test_rules_change_while_calls_come(guarded: GuardedService) -> None:
    """Calls that both rules allow are answered, whoever shares a group with them; the others by one of both."""
    stop = threading.Event()

    def change() -> None:
        both = AccessRules(OTHER_RULES), AccessRules(RULES)
        while not stop.is_set():
            for rules in both:
                guarded.service.change(LIMITS, rules)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        seen: set[str] = set()
        until = time.monotonic() + WAIT
        while len(seen) < 2 and time.monotonic() < until:
            asked = [(who, score_request("fraud-a", 1.0)) for who in (NK, OPS, OPS, NK)]
            asked += [(who, score_request("fraud-b", 1.0)) for who in (NK, OPS)]
            reasons = [reason_of(outcome) for outcome in guarded.ask_each(asked)]
            assert [reasons[place] for place in (1, 2, 4, 5)] == ["OK"] * 4
            seen |= {reasons[0], reasons[3]}
    finally:
        stop.set()
        changing.join()
    assert seen == {"OK", "MODEL_NOT_FOUND"}
