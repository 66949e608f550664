"""No byte of an answer holds the name of a model that its caller has no right to, whatever the rules and the calls."""

from __future__ import annotations

from fnmatch import fnmatchcase

from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.config import AccessRule
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.security.principal import Principal
from prinz_enricher.service.calls import Source
from tests.support.guarded_service import GuardedService, model_of, reason_of, score_request, signature_request

A, B = Principal("a-caller", ("staff",)), Principal("b-caller", ("staff", "risk"))
MODELS = ("Fraud-Eins", "Fraud-Zwei", "Risk/Drei", "Risk/Vier", "Quarzuhr")
METHODS = ("list", "describe", "score", "watch")

RULES = st.lists(
    st.builds(
        AccessRule,
        principals=st.lists(
            st.sampled_from(["a-caller", "b-caller", "*-caller", "group:risk", "group:staff"]), min_size=1
        ),
        models=st.lists(st.sampled_from([*MODELS, "Fraud-*", "Risk/*", "*ei*"]), min_size=1, max_size=2),
        methods=st.lists(st.sampled_from(METHODS), min_size=1, unique=True),
    ),
    min_size=1,
    max_size=4,
)


def rights(rules: list[AccessRule], caller: Principal, model: str) -> set[str]:
    """Return what a caller may do with a model, by the plainest reading of the rules."""
    return {
        method
        for rule in rules
        if any(fnmatchcase(model, pattern) for pattern in rule.models)
        and any(
            pattern.removeprefix("group:") in caller.groups
            if pattern.startswith("group:")
            else fnmatchcase(caller.name, pattern)
            for pattern in rule.principals
        )
        for method in rule.methods
    }


def pulled(source: Source | status_pb2.Status) -> list[bytes]:
    """Return all that a watch sends now."""
    assert not isinstance(source, status_pb2.Status)
    items = []
    while isinstance(item := source.pull(), bytes):
        items.append(item)
    return items


def all_pages(service: GuardedService, caller: Principal, **request: object) -> list[bytes]:
    """Return every page of a list."""
    pages, token = [], ""
    while True:
        [page] = service.ask(caller, pb.ListModelsRequest(page_size=1, page_token=token, **request))  # type: ignore[arg-type]
        assert isinstance(page, bytes)
        pages.append(page)
        if not (token := pb.ListModelsResponse.FromString(page).next_page_token):
            return pages


@given(rules=RULES)
def test_no_name_leaks(rules: list[AccessRule]) -> None:
    """Lists, watches, their tokens and events, and the errors about hidden models show each caller its own alone."""
    with GuardedService(*MODELS[:-1], rules=rules) as service:
        for caller, other in ((A, B), (B, A)):
            watch = service.watch(caller, full=True)
            seen = all_pages(service, caller, view=pb.MODEL_VIEW_FULL)
            seen += all_pages(service, caller, filter='name LIKE "%"')
            events = pulled(watch)
            service.catalog.change(model_of("Quarzuhr"), model_of("Risk/Drei", "changed"), removed=["Fraud-Zwei"])
            events += pulled(watch)
            resumed = pb.WatchModelsResponse.FromString(events[-1]).resume_token
            events += pulled(service.watch(caller, resumed))
            assert reason_of(service.watch(other, resumed)) == "RESYNC_REQUIRED"
            service.catalog.change(*map(model_of, MODELS[:-1]), removed=["Quarzuhr"])
            for model in MODELS:
                may = rights(rules, caller, model)
                name = model.encode()
                assert any(name in page for page in seen) == ("list" in may and model != "Quarzuhr")
                assert any(name in event for event in events) == ("watch" in may)
                missing = model[:-1] + "x"
                if may or rights(rules, caller, missing):
                    continue
                for about in (score_request, signature_request):
                    hidden, absent = service.ask(caller, about(model), about(missing))
                    assert isinstance(hidden, status_pb2.Status)
                    assert isinstance(absent, status_pb2.Status)
                    assert hidden.SerializeToString().replace(name, missing.encode()) == absent.SerializeToString()
