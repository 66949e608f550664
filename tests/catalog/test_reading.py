"""The registry's lists, read completely, whatever happens while they are read."""

import random
from collections.abc import Callable, Iterator

import pytest

from prinz_enricher.catalog.reading import MAX_ASKED, Reading, read_registry
from prinz_enricher.catalog.serving_rules import Selection
from prinz_enricher.registry import RegistryClient, RegistryError, RegistryUnreachable, RegistryUnreadable
from prinz_enricher.registry.registry_errors import TokenRefused
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.synthetic_registry import SyntheticRegistry

MODELS, VERSIONS = "registered-models/search", "model-versions/search"


class Registry(SyntheticRegistry):
    """A registry in which something happens between two requests.

    Attributes:
        after: What happens after requests whose paths end so, in turn; one thing after each.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.after: list[tuple[str, Callable[[], object]]] = []

    def __call__(self, request: Request) -> Answer:
        """Answer, and then let happen what is next."""
        answer = super().__call__(request)
        if self.after and request.path.endswith(self.after[0][0]):
            self.after.pop(0)[1]()
        return answer

    def rename(self, old: str, new: str) -> None:
        """Rename a model."""
        with self.lock:
            model = self.models.pop(old)
            model.name = new
            self.models[new] = model


@pytest.fixture
def registry(hostile_server: HostileServer) -> Registry:
    """A registry of five models of one version each."""
    registry = hostile_server.respond = Registry("a", "b", "c", "d", "e")
    return registry


@pytest.fixture
def client(hostile_server: HostileServer) -> Iterator[RegistryClient]:
    """A client with pages of two."""
    with RegistryClient(hostile_server.url, timeout=2.0, models_per_page=2, versions_per_page=2) as opened:
        yield opened


def listed(reading: Reading) -> str:
    """Return the names of the models that have versions, and in brackets of those that have none."""
    with_versions = {name for name, _ in reading.versions}
    return "".join(name if name in with_versions else f"({name})" for name in sorted(reading.models))


@pytest.mark.parametrize("path", [MODELS, VERSIONS])
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_deletion_between_two_pages_hides_nothing(
    registry: Registry, client: RegistryClient, path: str, *, first: bool
) -> None:
    """A model that is deleted while pages are read takes only itself away, at the first reading too."""
    former = None if first else read_registry(client)
    registry.after = [(path, lambda: registry.remove("a"))]
    reading = read_registry(client, former)
    # It may have been told before it was deleted.
    assert listed(reading) in {"bcde", "abcde"}
    assert registry.after == []
    assert listed(read_registry(client, reading)) == "bcde"


def test_creation_between_two_pages_doubles_nothing(registry: Registry, client: RegistryClient) -> None:
    """A model that is created while pages are read pushes another one to two of them, where it counts once."""
    former = read_registry(client)
    registry.after = [(MODELS, lambda: registry.add("aa"))]
    assert listed(read_registry(client, former)) == "aaabcde"


def test_rename_is_one_step(registry: Registry, client: RegistryClient) -> None:
    """A model that is renamed between the lists of models and of versions has its new name alone."""
    former = read_registry(client)
    registry.after = [(MODELS, lambda: None), (MODELS, lambda: None), (MODELS, lambda: registry.rename("b", "z"))]
    reading = read_registry(client, former)
    assert listed(reading) == "acdez"
    assert ("z", "1") in reading.versions


def test_deletion_between_the_lists_is_one_step(registry: Registry, client: RegistryClient) -> None:
    """A model that is deleted between the two lists is gone, and never there without its versions."""
    former = read_registry(client)
    registry.after = [(MODELS, lambda: None), (MODELS, lambda: None), (MODELS, lambda: registry.remove("b"))]
    assert listed(read_registry(client, former)) == "acde"


def test_alias_always_points_to_what_is_there(registry: Registry, client: RegistryClient) -> None:
    """An alias that moves, while its old version is deleted, points to the new version."""
    registry.models["b"].aliases = {"champion": "1"}
    former = read_registry(client)

    def replace() -> None:
        model = registry.add("b", 2)
        del model.versions[1]
        model.aliases = {"champion": "2"}

    registry.after = [(MODELS, lambda: None), (MODELS, lambda: None), (MODELS, replace)]
    reading = read_registry(client, former)
    assert reading.models["b"].aliases == {"champion": "2"}
    assert {key for key in reading.versions if key[0] == "b"} == {("b", "2")}


def test_alias_that_points_nowhere_is_asked_for_once(registry: Registry, client: RegistryClient) -> None:
    """What the registry says twice of an alias is what it is; it is not asked for with each reading."""
    registry.models["b"].aliases = {"champion": "7"}
    first = read_registry(client)
    asked = registry.asked["registered-models/get"]
    second = read_registry(client, first)
    assert second.models["b"].aliases == {"champion": "7"}
    assert registry.asked["registered-models/get"] == asked


def test_unchanged_entities_are_the_same_objects(registry: Registry, client: RegistryClient) -> None:
    """What did not change is shared, whatever else did."""
    first = read_registry(client)
    registry.models["b"].tags = {"team": "risk"}
    registry.models["c"].versions[1].description = "New."
    second = read_registry(client, first)
    assert [name for name in first.models if second.models[name] is not first.models[name]] == ["b"]
    assert [key for key in first.versions if second.versions[key] is not first.versions[key]] == [("c", "1")]


@pytest.mark.parametrize("path", [MODELS, VERSIONS])
def test_empty_list_is_not_believed(registry: Registry, client: RegistryClient, path: str) -> None:
    """A list that is empty all of a sudden changes nothing while the registry has each entity."""
    former = read_registry(client)
    registry.override = {path: answer_json({})}
    reading = read_registry(client, former)
    assert (reading.models, reading.versions) == (former.models, former.versions)


@pytest.mark.parametrize("answer", [Answer(b"", 500), Answer(b"{}"), answer_json({"registered_model": {"name": 5}})])
def test_no_clear_answer_keeps_an_entity(registry: Registry, client: RegistryClient, answer: Answer) -> None:
    """A model that is missing stays while the registry does not say that it is gone."""
    former = read_registry(client)
    registry.remove("b")
    registry.override = {"registered-models/get": answer}
    assert "b" in read_registry(client, former).models
    registry.override = {"registered-models/get": Answer(b"", 403)}
    assert "b" not in read_registry(client, former).models


def test_refused_token_keeps_an_entity(
    registry: Registry, client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token endpoint that forbids says nothing of a model that is missing, so that it stays."""
    former = read_registry(client)
    registry.remove("b")

    def refuse(_: str) -> None:
        raise TokenRefused("no token", 403)

    monkeypatch.setattr(client, "registered_model", refuse)
    assert "b" in read_registry(client, former).models


def test_registry_that_goes_away_ends_the_reading(registry: Registry, client: RegistryClient) -> None:
    """Without an answer at all the reading is none; it does not wait for each entity."""
    former = read_registry(client)
    for name in "abc":
        registry.remove(name)
    registry.override = {"registered-models/get": Answer(b"{}", declared_length=9)}
    with pytest.raises(RegistryUnreachable):
        read_registry(client, former)


def test_model_that_became_a_prompt_is_gone(registry: Registry, client: RegistryClient) -> None:
    """A model that MLflow no longer lists, since it is a prompt now, is not kept because it is there."""
    former = read_registry(client)
    prompt = {"registered_model": {"name": "b", "tags": [{"key": "mlflow.prompt.is_prompt", "value": "true"}]}}
    registry.remove("b")
    registry.override = {"registered-models/get": answer_json(prompt)}
    assert "b" not in read_registry(client, former).models


def test_many_that_are_missing_are_listed_again(registry: Registry, hostile_server: HostileServer) -> None:
    """Where many are gone the list is read once more, and believed where it says so twice; none is asked for."""
    names = [f"many-{number:03}" for number in range(MAX_ASKED + 1)]
    for name in names:
        registry.add(name)
    with RegistryClient(hostile_server.url) as client:
        former = read_registry(client)
        for name in names:
            registry.remove(name)
        registry.asked.clear()
        assert listed(read_registry(client, former)) == "abcde"
    assert registry.asked == {MODELS: 2, VERSIONS: 1}


def test_list_that_never_agrees(registry: Registry, hostile_server: HostileServer) -> None:
    """Lists that each time leave out many that are there are no reading."""
    for number in range(400):
        registry.add(f"many-{number:03}")
    with RegistryClient(hostile_server.url) as client:
        former = read_registry(client)
        counter = iter(range(100))

        def respond(request: Request) -> Answer:
            if request.path.endswith(MODELS):
                number = next(counter)
                names = [name for name in registry.models if not name.startswith(f"many-{number % 2}")]
                return answer_json({"registered_models": [{"name": name} for name in names]})
            return registry(request)

        hostile_server.respond = respond
        with pytest.raises(RegistryUnreadable, match="missing"):
            read_registry(client, former)


def test_selection(registry: Registry, client: RegistryClient) -> None:
    """Models that are not selected are as if they were not there, and are not asked for."""
    registry.models["b"].tags = {"stage": "lab-7"}
    selection = Selection(["[a-c]", "tag:team=*"], ["tag:stage=lab-*"])
    reading = read_registry(client, None, selection)
    assert listed(reading) == "ac"
    registry.models["e"].tags = {"team": "risk"}
    registry.models["b"].tags = {}
    registry.remove("d")
    registry.asked.clear()
    assert listed(read_registry(client, reading, selection)) == "abce"
    assert registry.asked["registered-models/get"] == 0


def test_hidden_models_are_asked_for_once(registry: Registry) -> None:
    """A model that is not for us, while its versions are listed, is not there, and is asked for once."""

    def hide(request: Request) -> Answer:
        if request.path.endswith(MODELS):
            return answer_json({"registered_models": [{"name": name} for name in registry.models if name != "b"]})
        if request.path.endswith("registered-models/get"):
            registry.asked["hidden"] += 1
            return Answer(b"", 403)
        return registry(request)

    with HostileServer() as server:
        server.respond = hide
        with RegistryClient(server.url) as restricted:
            first = read_registry(restricted)
            second = read_registry(restricted, first)
            assert listed(first) == listed(second) == "acde"
            assert registry.asked["hidden"] == 1
            server.respond = registry
            assert listed(read_registry(restricted, second)) == "abcde"


def test_faults_are_told(registry: Registry, client: RegistryClient) -> None:
    """What can't be read is reported; a known model that can't be read any more stays as it was."""
    former = read_registry(client)
    registry.models["b"].tags = {"": "no key"}
    reading = read_registry(client, former)
    assert reading.models["b"] == former.models["b"]
    assert len(reading.faults) == 1


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_lost_while_all_changes(seed: int, hostile_server: HostileServer) -> None:
    """While models come and go between any two requests, those that are there all the time are in each reading."""
    chance = random.Random(seed)  # noqa: S311 - a seed makes it repeatable
    registry = Registry(*(f"stays-{number}" for number in range(9)))
    lasting = set(registry.models)
    numbers = iter(range(10_000))

    def happen() -> None:
        for _ in range(chance.randrange(3)):
            passing = sorted(set(registry.models) - lasting)
            if passing and chance.random() < 0.55:
                registry.remove(chance.choice(passing))
            else:
                registry.add(f"{chance.choice(['a', 'stays-3-', 'z'])}-{next(numbers)}", chance.randrange(3))

    def respond(request: Request) -> Answer:
        answer = registry(request)
        if chance.random() < 0.7:
            happen()
        return answer

    for _ in range(10):
        happen()
    hostile_server.respond = respond
    with RegistryClient(hostile_server.url, models_per_page=3, versions_per_page=4) as client:
        former: Reading | None = None
        for _ in range(6):
            try:
                former = read_registry(client, former)
            except RegistryError:
                continue
            assert lasting <= former.models.keys()
            assert {(name, "1") for name in lasting} <= former.versions.keys()
            assert {name for name, _ in former.versions} <= former.models.keys()
    assert former is not None
