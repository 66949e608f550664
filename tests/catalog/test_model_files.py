"""MLmodel files: read when they are new, looked at again in turn, and never forgotten for a passing reason."""

from collections.abc import Iterator, Mapping

import pytest

from prinz_enricher.catalog.model_files import CHECKED_EACH_TIME, ModelFiles
from prinz_enricher.catalog.snapshot import NOT_READ, ModelFile
from prinz_enricher.registry import RegistryClient
from tests.support.hostile_server import Answer, HostileServer, answer_json
from tests.support.registry_writer import mlmodel_text
from tests.support.synthetic_registry import SyntheticRegistry

OTHER = mlmodel_text([{"type": "long", "name": "other", "required": True}]).encode()
TTL = 300.0


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Reader:
    """Reads the files of a synthetic registry, one look after the other."""

    def __init__(self, client: RegistryClient, registry: SyntheticRegistry) -> None:
        self.clock = Clock()
        self.registry = registry
        self.client = client
        self.files = ModelFiles(client, 4, time_to_live=TTL, clock=self.clock)

    def look(self, seconds: float = 10.0, budget: float = 60.0) -> Mapping[tuple[str, str], ModelFile]:
        """Look at the registry after some seconds."""
        self.clock.now += seconds
        return self.files.read(self.client.model_versions().items, budget=budget)

    def looked_at(self) -> dict[str, int]:
        """Return how often each file was asked for since the last time that this was asked."""
        asked = {key: count for key, count in self.registry.asked.items() if not key.startswith("model-versions/")}
        self.registry.asked.clear()
        return asked


@pytest.fixture
def registry(hostile_server: HostileServer) -> SyntheticRegistry:
    """A registry of three models."""
    synthetic = hostile_server.respond = SyntheticRegistry("a", "b", "c")
    return synthetic


@pytest.fixture
def reader(hostile_server: HostileServer, registry: SyntheticRegistry) -> Iterator[Reader]:
    """What reads its files."""
    with RegistryClient(hostile_server.url, timeout=2.0) as client:
        yield Reader(client, registry)


def test_two_requests_and_then_one(reader: Reader, registry: SyntheticRegistry) -> None:
    """Where a file is, is asked once; it is looked at again in one conditional request."""
    registry.conditional = True
    first = reader.look()
    assert registry.asked["model-versions/get-download-uri"] == 3
    second = reader.look()
    assert registry.asked["model-versions/get-download-uri"] == 3
    assert registry.unchanged == {"a/1": 1, "b/1": 1, "c/1": 1}
    assert all(second[key] is first[key] for key in first)


def test_a_new_signature_shows_with_the_next_look(reader: Reader, registry: SyntheticRegistry) -> None:
    """In a small registry a file that was written anew is read by the next look."""
    before = reader.look()["a", "1"]
    registry.models["a"].versions[1].mlmodel = OTHER
    after = reader.look()["a", "1"]
    assert before.signature is not None
    assert after.signature is not None
    assert [field.name for field in after.signature.inputs] == ["other"]


def test_all_are_looked_at_within_the_time_to_live(reader: Reader, registry: SyntheticRegistry) -> None:
    """In a large registry each look takes its share, those looked at longest ago first."""
    registry.add("many", 597)
    reader.look()
    assert sum(reader.looked_at().values()) == 600
    counts = []
    seen: set[str] = set()
    for _ in range(int(TTL / 50)):
        reader.look(50.0)
        looked_at = reader.looked_at()
        counts.append(len(looked_at))
        assert set(looked_at.values()) == {1}
        seen |= looked_at.keys()
    assert len(seen) == 600
    assert max(counts) < 200
    reader.look(0.1)
    assert len(reader.looked_at()) == CHECKED_EACH_TIME


def test_those_sought_after_go_first(reader: Reader, registry: SyntheticRegistry) -> None:
    """Among files of the same age those of aliases and defaults are looked at first."""
    registry.add("many", 200)
    reader.look()
    reader.looked_at()
    wanted = {("many", str(number)) for number in range(100, 100 + CHECKED_EACH_TIME)}
    reader.clock.now += 0.1
    reader.files.read(reader.client.model_versions().items, first=wanted)
    assert reader.looked_at().keys() == {f"many/{number}" for _, number in wanted}


@pytest.mark.parametrize("answer", [Answer(b"", 500), Answer(b"", 403), Answer(b"{}", declared_length=9)])
def test_passing_failure_keeps_what_is_known(
    reader: Reader, registry: SyntheticRegistry, answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A look that fails for a passing reason changes nothing, is logged once, and the next good one goes on."""
    good = reader.look()["a", "1"]
    registry.override["a/1"] = answer
    capsys.readouterr()
    for _ in range(3):
        assert reader.look()["a", "1"] is good
    assert capsys.readouterr().out.count("version can't be read") == 1
    registry.override.clear()
    registry.models["a"].versions[1].mlmodel = OTHER
    assert reader.look()["a", "1"].signature != good.signature


def test_file_that_was_never_read_is_tried_each_time(reader: Reader, registry: SyntheticRegistry) -> None:
    """A file that can't be read now is a fault of its version alone, which may pass."""
    registry.override["a/1"] = Answer(b"", 503)
    files = reader.look()
    assert (files["a", "1"].pending, "HTTP 503" in files["a", "1"].fault) == (True, True)
    assert not files["b", "1"].pending
    assert reader.look()["a", "1"] is files["a", "1"]
    registry.override.clear()
    assert reader.look()["a", "1"].fault == ""


@pytest.mark.parametrize("content", [None, b"{[", mlmodel_text(signed=False).encode()], ids=["gone", "broken", "none"])
def test_good_file_is_given_up_the_second_time(
    reader: Reader, registry: SyntheticRegistry, content: bytes | None
) -> None:
    """A good file that is gone, or worse, stays for one more look; then it is a fault, until it is there again."""
    good = reader.look()["a", "1"]
    version = registry.models["a"].versions[1]
    written, version.mlmodel = version.mlmodel, content
    assert reader.look()["a", "1"] is good
    bad = reader.look()["a", "1"]
    assert bad.fault
    assert not bad.pending
    assert reader.look()["a", "1"] is bad
    version.mlmodel = written
    assert reader.look()["a", "1"] is good


def test_good_file_that_is_back_is_not_given_up(reader: Reader, registry: SyntheticRegistry) -> None:
    """A file that was gone for one look alone was never gone."""
    good = reader.look()["a", "1"]
    version = registry.models["a"].versions[1]
    for _ in range(3):
        written, version.mlmodel = version.mlmodel, None
        assert reader.look()["a", "1"] is good
        version.mlmodel = written
        assert reader.look()["a", "1"] is good


def test_broken_from_the_start(reader: Reader, registry: SyntheticRegistry) -> None:
    """A file that was never good is a fault at once."""
    registry.add("unread", 1, "{[")
    registry.models["b"].versions[1].mlmodel = None
    files = reader.look()
    assert files["unread", "1"].fault == "can't be read: its MLmodel file can't be read as YAML"
    assert (
        files["b", "1"].fault
        == "has no MLmodel file where the registry says that it is (RESOURCE_DOES_NOT_EXIST: gone)"
    )


@pytest.mark.parametrize("status", [400, 403, 404, 405, 410, 413, 422])
@pytest.mark.parametrize("where", ["b/1", "get-download-uri"])
def test_what_is_refused_for_good(reader: Reader, registry: SyntheticRegistry, where: str, status: int) -> None:
    """A file, or its place, that the registry refuses is a fault with its words at once, until it is handed out."""
    registry.override[where] = answer_json({"error_code": "NO_SUCH", "message": "Ask\nsomeone else"}, status)
    file = reader.look()["b", "1"]
    assert not file.pending
    assert "NO_SUCH: Ask" in file.fault
    assert "someone" not in file.fault
    registry.override.clear()
    assert reader.look()["b", "1"].fault == ""


@pytest.mark.parametrize("status", [401, 408, 425, 429, 500, 502, 503])
def test_what_may_be_handed_out_later(reader: Reader, registry: SyntheticRegistry, status: int) -> None:
    """A file of a registry that fails, or does not know us now, is still to be read."""
    registry.override["b/1"] = answer_json({"error_code": "INTERNAL_ERROR", "message": "No idea."}, status)
    file = reader.look()["b", "1"]
    assert file.pending
    assert "INTERNAL_ERROR: No idea." in file.fault


def test_deleted_versions_are_forgotten(reader: Reader, registry: SyntheticRegistry) -> None:
    """A version that is gone is forgotten, so that another one in its place is read anew."""
    reader.look()
    registry.remove("a")
    assert reader.look().keys() == {("b", "1"), ("c", "1")}
    registry.add("a", 1, OTHER.decode())
    signature = reader.look()["a", "1"].signature
    assert signature is not None
    assert signature.inputs[0].name == "other"


def test_same_content_is_there_once(reader: Reader) -> None:
    """Versions with the same signature share it."""
    files = reader.look()
    assert len({id(file) for file in files.values()}) == 1


def test_what_there_is_no_time_for_comes_later(reader: Reader, registry: SyntheticRegistry) -> None:
    """After the budget no file is begun; what a call waits for is read first when it goes on."""
    registry.add("many", 100)
    files = reader.look(budget=0.0)
    assert set(map(id, files.values())) == {id(NOT_READ)}
    assert reader.files.behind
    reader.files.prioritize("many", "77")

    def stop_after_one() -> bool:
        return bool(registry.asked["many/77"])

    one = ModelFiles(reader.client, 1, clock=reader.clock)
    one.read(reader.client.model_versions().items, budget=0.0)
    one.prioritize("many", "77")
    read = one.read_on(stop_after_one, budget=60.0)
    assert [key for key, file in read.items() if file is not NOT_READ] == [("many", "77")]
    rest = reader.files.read_on(budget=60.0)
    assert not reader.files.behind
    assert not [file for file in rest.values() if file.pending]


def test_wanting_what_is_known_asks_nothing(reader: Reader, registry: SyntheticRegistry) -> None:
    """Calls for signatures that are known, or that were just tried, make no requests."""
    registry.override["b/1"] = Answer(b"", 503)
    reader.look()
    reader.looked_at()
    for name in ("a", "b", "nobody"):
        reader.files.prioritize(name, "1")
    reader.files.read_on(budget=60.0)
    assert reader.looked_at() == {}
    assert not reader.files.behind
    reader.clock.now += 1.5
    reader.files.prioritize("b", "1")
    registry.override.clear()
    assert reader.files.read_on(budget=60.0)["b", "1"].fault == ""


def test_place_is_asked_anew_where_a_file_is_gone(reader: Reader, registry: SyntheticRegistry) -> None:
    """A file that is not where it was is looked for where the registry says that it is now."""
    reader.look()
    registry.models["a"].versions[1].mlmodel = None
    reader.look()
    before = registry.asked["model-versions/get-download-uri"]
    reader.look()
    assert registry.asked["model-versions/get-download-uri"] == before + 1


def test_error_of_ours_is_not_lost(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is raised, and does not make the next look repeat it without end."""
    reader.look()

    def fail(*_: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(reader.client, "mlmodel_at", fail)
    with pytest.raises(RuntimeError, match="unforeseen"):
        reader.look()
    assert not reader.files.behind
