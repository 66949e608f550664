"""Which version a caller means."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.catalog import Selection, default_version, resolve, scorable
from prinz_enricher.catalog.serving_rules import PolicyError, parse_policy
from prinz_enricher.catalog.snapshot import Assembler, ModelFile, Snapshot
from prinz_enricher.errors import AliasNotFound, ModelLoadFailed, ModelNotFound, VersionNotFound
from prinz_enricher.registry import ModelVersion, RegisteredModel
from prinz_enricher.signature import Signature


def make_snapshot(
    aliases: dict[str, str], statuses: dict[str, str], stages: dict[str, str] | None = None, tag: str = ""
) -> Snapshot:
    """Return a snapshot of the model `wine`, with a version for each status."""
    model = RegisteredModel("wine", "", {"prinz.default": tag} if tag else {}, aliases, 0, 0)
    versions = [
        ModelVersion("wine", n, "", {}, status, "", "", "", 0, 0, (stages or {}).get(n, "None"))
        for n, status in statuses.items()
    ]
    file = ModelFile(Signature((), ()))
    return Assembler().assemble([model], versions, {("wine", number): file for number in statuses})


SNAPSHOT = make_snapshot(
    {"champion": "2", "early": "11", "lost": "7"},
    {"1": "READY", "2": "READY", "9": "READY", "10": "READY", "11": "PENDING_REGISTRATION"},
)


def test_by_number() -> None:
    """A number is that version, written exactly as it is listed."""
    assert resolve(SNAPSHOT, "wine", version="9").version == "9"
    for number in ("3", "09", "11", "", "latest"):
        with pytest.raises(VersionNotFound):
            resolve(SNAPSHOT, "wine", version=number)


def test_by_alias() -> None:
    """An alias is its version, if that is READY."""
    assert resolve(SNAPSHOT, "wine", alias="champion").version == "2"
    with pytest.raises(AliasNotFound):
        resolve(SNAPSHOT, "wine", alias="nobody")
    for alias in ("early", "lost"):
        with pytest.raises(VersionNotFound):
            resolve(SNAPSHOT, "wine", alias=alias)


def test_by_default() -> None:
    """Without a choice it is the champion, else the highest READY number; a policy may say otherwise."""
    assert resolve(SNAPSHOT, "wine").version == "2"
    assert resolve(SNAPSHOT, "wine", policy=("latest",)).version == "10"
    assert resolve(SNAPSHOT, "wine", policy=("alias:nobody", "latest")).version == "10"
    assert resolve(make_snapshot({}, {"1": "READY"}), "wine").version == "1"
    with pytest.raises(VersionNotFound, match="no version that is ready"):
        resolve(SNAPSHOT, "wine", policy=("alias:nobody",))


READY_THREE = dict.fromkeys("123", "READY")
STAGES = {"1": "Production", "2": "Archived", "3": "Archived"}


def test_archived_is_never_the_latest() -> None:
    """The newest version that is not archived is the default; one that is archived can be named all the same."""
    snapshot = make_snapshot({"old": "3"}, READY_THREE, STAGES)
    assert resolve(snapshot, "wine").version == "1"
    assert resolve(snapshot, "wine", version="2").version == "2"
    assert resolve(snapshot, "wine", alias="old").version == "3"
    assert resolve(snapshot, "wine", policy=("alias:old", "latest")).version == "3"
    archived = make_snapshot({}, READY_THREE, dict.fromkeys("123", "Archived"))
    assert default_version(archived.models["wine"]) is None
    with pytest.raises(VersionNotFound, match="ready and not archived"):
        resolve(archived, "wine")


@pytest.mark.parametrize(
    ("stages", "policy", "number"),
    [
        (STAGES, "stage:Production,latest", "1"),
        (STAGES, "stage:production", "1"),
        (STAGES, "stage:Archived", "3"),
        (STAGES, "stage:Staging", None),
        (STAGES, "stage:Staging,stage:PRODUCTION", "1"),
        (STAGES, "stage:None,latest", "1"),
        ({"1": "Staging", "2": "Production"}, "stage:Staging", "1"),
        ({"1": "Staging", "2": "Production"}, "stage:None", "3"),
        ({"1": "Production", "2": "Production"}, "alias:champion,stage:Production", "2"),
        (dict.fromkeys("123", ""), "stage:None,latest", "3"),
    ],
)
@pytest.mark.parametrize("tagged", [True, False], ids=["tag", "setting"])
def test_by_stage(stages: dict[str, str], policy: str, number: str | None, *, tagged: bool) -> None:
    """A stage means its newest READY version, by the policy of the service and by that of the model."""
    snapshot = make_snapshot({}, READY_THREE, stages, policy if tagged else "")
    choices = ("alias:nobody",) if tagged else parse_policy(policy)
    found = default_version(snapshot.models["wine"], choices)
    assert (None if found is None else found.version) == number
    assert snapshot.models["wine"].fault == ""


def test_stage_skips_what_is_not_ready() -> None:
    """A version of a stage that is not READY is not its newest."""
    statuses = {"1": "READY", "2": "PENDING_REGISTRATION"}
    snapshot = make_snapshot({}, statuses, dict.fromkeys("12", "Production"))
    assert resolve(snapshot, "wine", policy=("stage:Production",)).version == "1"


def test_default_alias_decides_even_where_it_can_not_be_used() -> None:
    """A champion that is not READY is not replaced by another version in silence."""
    snapshot = make_snapshot({"champion": "2"}, {"1": "READY", "2": "FAILED_REGISTRATION"})
    with pytest.raises(VersionNotFound):
        resolve(snapshot, "wine")
    assert default_version(snapshot.models["wine"]) is None


def test_unknown_model() -> None:
    """A model that is not there is told so, whatever else is asked."""
    with pytest.raises(ModelNotFound):
        resolve(SNAPSHOT, "beer", version="1")


def test_model_without_versions() -> None:
    """A model without versions has no default."""
    snapshot = make_snapshot({}, {})
    assert default_version(snapshot.models["wine"]) is None
    with pytest.raises(VersionNotFound):
        resolve(snapshot, "wine")


def test_scorable() -> None:
    """A version whose signature can't be read is found, but can't be scored."""
    assert scorable(resolve(SNAPSHOT, "wine")).version == "2"
    model = RegisteredModel("wine", "", {}, {}, 0, 0)
    version = ModelVersion("wine", "1", "", {}, "READY", "", "", "", 0, 0)
    snapshot = Assembler().assemble([model], [version], {("wine", "1"): ModelFile(None, fault="is broken")})
    with pytest.raises(ModelLoadFailed, match="it is broken"):
        scorable(resolve(snapshot, "wine"))


@given(st.lists(st.integers(1, 10**6), unique=True, min_size=1), st.randoms(use_true_random=False))
def test_numbers_are_compared_as_numbers(numbers: list[int], random: Random) -> None:
    """Versions are listed highest number first, in whatever order the registry told them."""
    random.shuffle(numbers)
    snapshot = make_snapshot({}, {str(number): "READY" for number in numbers})
    listed = [int(version.version) for version in snapshot.models["wine"].versions]
    assert listed == sorted(numbers, reverse=True)
    assert resolve(snapshot, "wine").version == str(max(numbers))
    assert snapshot.revision == make_snapshot({}, {str(n): "READY" for n in sorted(numbers)}).revision


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("latest", ("latest",)),
        (" alias:champion , latest", ("alias:champion", "latest")),
        ("version:3", ("version:3",)),
        ("alias:a:b", ("alias:a:b",)),
        ("stage:Production, stage:none,latest", ("stage:Production", "stage:none", "latest")),
    ],
)
def test_policy_is_read(text: str, choices: tuple[str, ...]) -> None:
    """A policy is a list of choices."""
    assert parse_policy(text) == choices


@pytest.mark.parametrize(
    "text",
    [
        "",
        "newest",
        "alias:",
        "latest,",
        "version:",
        "version:x",
        "version:²",
        "a" * 2000,
        "stage:",
        "stage:Prod",
        "stage",
        "Production",
    ],
)
def test_what_is_no_policy(text: str) -> None:
    """What can't be read is refused, with what can."""
    with pytest.raises(PolicyError):
        parse_policy(text)


@pytest.mark.parametrize(
    ("tag", "number"),
    [
        ("version:9", "9"),
        ("version:09", "9"),
        ("version:77,alias:champion", "2"),
        ("alias:nobody,latest", "10"),
        ("version:77", None),
        ("alias:early,latest", None),
        ("newest", "2"),
    ],
)
def test_own_policy_of_a_model(tag: str, number: str | None) -> None:
    """A model's own policy holds, whatever the service's is; one that can't be read leaves the service's."""
    model = SNAPSHOT.models["wine"]
    versions = [ModelVersion("wine", v.version, "", {}, v.status, "", "", "", 0, 0) for v in model.versions]
    told = RegisteredModel("wine", "", {"prinz.default": tag}, dict(model.aliases), 0, 0)
    snapshot = Assembler().assemble([told], versions, {})
    default = default_version(snapshot.models["wine"])
    assert (None if default is None else default.version) == number
    assert bool(snapshot.models["wine"].fault) == (tag == "newest")


@pytest.mark.parametrize(
    ("include", "exclude", "admitted"),
    [
        (["*"], [], True),
        (["wine"], [], True),
        (["Wine"], [], False),
        (["w?n[ef]"], [], True),
        ([], [], False),
        (["tag:team=risk"], [], True),
        (["tag:team=r*"], [], True),
        (["tag:team="], [], False),
        (["tag:empty="], [], True),
        (["tag:nobody=*"], [], False),
        (["*"], ["wine"], False),
        (["*"], ["tag:formula=a=*"], False),
        (["*"], ["fraud", "tag:team=other"], True),
    ],
)
def test_selection(include: list[str], exclude: list[str], admitted: bool) -> None:
    """A model is served where a rule includes it and none excludes it."""
    model = RegisteredModel("wine", "", {"team": "risk", "empty": "", "formula": "a=b"}, {}, 0, 0)
    assert Selection(include, exclude).admits(model) is admitted


@pytest.mark.parametrize("rule", ["", "tag:", "tag:team", "tag:=x"])
def test_what_is_no_rule(rule: str) -> None:
    """What is no rule is refused."""
    with pytest.raises(ValueError, match="rule"):
        Selection(["*"], [rule])
