"""Access rules: who may do what with which model, and what it costs to find out."""

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.config import AccessRule
from prinz_enricher.errors import ModelForbidden, ModelNotFound
from prinz_enricher.security.access import AccessRules, Method
from prinz_enricher.security.principal import Principal

METHODS: tuple[Method, ...] = ("list", "describe", "score", "watch")


def rule(principals: list[str], models: list[str], *methods: Method) -> AccessRule:
    """Return a rule, by default for all methods."""
    return AccessRule(principals=tuple(principals), models=tuple(models), methods=methods or METHODS)


def test_without_rules_everything_is_allowed() -> None:
    """A service without rules asks for nobody's name."""
    rules = AccessRules([])
    assert not rules.restricted
    assert rules.may(None, "score", "fraud")
    rules.check(None, "watch", "x" * 2_000)


@pytest.mark.parametrize(
    ("pattern", "name", "groups", "allowed"),
    [
        ("nk", "nk", (), True),
        ("nk", "NK", (), False),
        ("nk", "nk-1", (), False),
        ("nk-*", "nk-1", (), True),
        ("nk-*", "nk-", (), True),
        ("*-nk", "team-nk", (), True),
        ("n?-[12]", "nk-2", (), True),
        ("n?-[12]", "nk-3", (), False),
        ("*", "anyone", (), True),
        ("spiffe://corp/nk/*", "spiffe://corp/nk/a/b", (), True),
        ("spiffe://corp/nk/*", "spiffe://corp/nkx/a", (), False),
        ("group:risk", "nk", ("ops", "risk"), True),
        ("group:risk", "risk", (), False),
        ("group:risk", "group:risk", (), False),
        ("group:r*", "nk", ("risk",), True),
        ("group:*", "nk", (), False),
        ("*", "nk", ("risk",), True),
        ("risk", "nk", ("risk",), False),
        ("n.k", "nxk", (), False),
        ("nk*", "nk\nb", (), True),
    ],
)
def test_principals(pattern: str, name: str, groups: tuple[str, ...], allowed: bool) -> None:
    """A pattern is compared with the whole name and by case; one of a group with the groups alone."""
    rules = AccessRules([rule([pattern], ["*"])])
    assert rules.may(Principal(name, groups), "score", "fraud") == allowed
    assert not rules.may(None, "score", "fraud")


def test_rights_of_several_rules_add_up_and_do_not_mix() -> None:
    """Each rule gives its methods on its models to its principals, and nothing of another rule."""
    rules = AccessRules(
        [
            rule(["nk", "group:risk"], ["fraud-*"], "list", "describe"),
            rule(["nk"], ["fraud-card"], "score"),
            rule(["ops"], ["*"], "list", "watch"),
        ]
    )
    nk, risk, ops = Principal("nk"), Principal("x", ("risk",)), Principal("ops", ("risk",))
    allowed = {
        (who.name, method, model)
        for who in (nk, risk, ops)
        for method in METHODS
        for model in ("fraud-card", "fraud-loan", "churn")
        if rules.may(who, method, model)
    }
    assert allowed == {
        *(("nk", method, "fraud-card") for method in ("list", "describe", "score")),
        *(("nk", method, "fraud-loan") for method in ("list", "describe")),
        *(("x", method, model) for method in ("list", "describe") for model in ("fraud-card", "fraud-loan")),
        *(("ops", method, model) for method in ("list", "watch") for model in ("fraud-card", "fraud-loan", "churn")),
        *(("ops", "describe", model) for model in ("fraud-card", "fraud-loan")),
    }


def test_what_may_not_be_listed_does_not_exist() -> None:
    """A model that the caller may list is forbidden; any other is not found, and its error is that of no model."""
    rules = AccessRules([rule(["nk"], ["fraud"], "list"), rule(["nk"], ["hidden"], "score")])
    nk = Principal("nk")
    rules.check(nk, "list", "fraud")
    rules.check(nk, "score", "hidden")
    with pytest.raises(ModelForbidden, match="has no right to score it"):
        rules.check(nk, "score", "fraud")
    for method, model in (("describe", "hidden"), ("score", "other"), ("score", "x" * 2_000)):
        with pytest.raises(ModelNotFound) as found:
            rules.check(nk, method, model)  # type: ignore[arg-type]
        assert str(found.value) == str(ModelNotFound(model))


NAMES = st.text("ab*?[]!", max_size=5)


@given(st.lists(st.tuples(NAMES.filter(bool), NAMES.filter(bool)), min_size=1, max_size=5), NAMES, NAMES)
def test_index_is_as_fnmatch(patterns: list[tuple[str, str]], name: str, model: str) -> None:
    """Finding rules by their prefixes is comparing each pattern, whatever is in it."""
    rules = AccessRules([rule([principal], [models]) for principal, models in patterns])
    expected = any(fnmatch.fnmatchcase(name, one) and fnmatch.fnmatchcase(model, other) for one, other in patterns)
    assert rules.may(Principal(name), "score", model) == expected


def test_ten_thousand_rules_cost_what_one_does() -> None:
    """With 10,000 rules and 1,000 principals a look-up takes microseconds, known or not; without a match too."""
    rules = AccessRules(
        rule([f"caller-{number % 1_000}", f"group:team-{number % 50}"], [f"model-{number}-*", f"m{number}"], "score")
        for number in range(10_000)
    )
    callers = [Principal(f"caller-{number}", (f"team-{number % 50}",)) for number in range(1_000)]
    asked = [(callers[number * 7 % 1_000], f"m{number * 13 % 12_000}") for number in range(5_000)]

    first, second = (_seconds(rules, asked) for _ in range(2))

    assert second / len(asked) < 50e-6
    assert first / len(asked) < 500e-6
    assert rules.may(callers[7], "score", "model-1007-x")
    assert not rules.may(callers[7], "score", "model-1008-x")


def _seconds(rules: AccessRules, asked: list[tuple[Principal, str]]) -> float:
    began = time.thread_time()
    for principal, model in asked:
        rules.may(principal, "score", model)
    return time.thread_time() - began


def test_made_up_names_take_no_memory() -> None:
    """Names that callers make up are remembered up to a limit, and long ones not at all."""
    rules = AccessRules([rule(["*"], ["*"])])
    caller = Principal("nk")
    assert all(rules.may(caller, "score", f"model-{number}") for number in range(25_000))
    assert not rules.may(caller, "score", "x" * 1_025)
    assert not any(len(held) > 10_000 for held in vars(rules).values() if isinstance(held, dict))
