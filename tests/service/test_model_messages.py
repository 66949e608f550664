"""Models on the wire: what is kept is what would be written anew."""

from typing import Any

from prinz_enricher.catalog import CatalogModel, CatalogVersion, default_version
from prinz_enricher.catalog.snapshot import NOT_READ, Assembler, ModelFile
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.registry import ModelVersion, RegisteredModel
from prinz_enricher.scoring.ports import Status, Target, WorkerState
from prinz_enricher.service.model_messages import ModelMessages
from prinz_enricher.service.targets import state_of
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature

FILES = {
    "1": ModelFile(Signature((Field("x", Scalar(ScalarKind.DOUBLE)),), ()), ("sklearn",)),
    "2": ModelFile(None, (), "has a signature that can't be read"),
    "3": NOT_READ,
    "4": ModelFile(Signature((), ()), (), "has no signature"),
}
VERSIONS = [ModelVersion("wine", number, "", {}, "READY", "", "", "", 0, 0) for number in FILES]


class World:
    """A model, what the pool says of its versions, and what was written of it."""

    def __init__(self) -> None:
        self.states = {number: Status(WorkerState.DISCOVERED) for number in FILES}
        self.assembler = Assembler()
        self.messages = self.writer()
        self.model = self.make({"champion": "1"})

    def writer(self, **limits: int) -> ModelMessages:
        """Return one that has written nothing yet."""
        fake: Any = self
        return ModelMessages(fake, fake, **limits)

    default_version = staticmethod(default_version)
    state = staticmethod(state_of)

    def status(self, target: Target) -> Status:
        """Return the pool's status of a target."""
        return self.states[target.version]

    def make(self, aliases: dict[str, str], tags: dict[str, str] | None = None) -> CatalogModel:
        """Return the model as a new snapshot has it."""
        model = RegisteredModel("wine", "", tags or {}, aliases, 0, 0)
        files = {("wine", number): file for number, file in FILES.items()}
        return self.assembler.assemble([model], VERSIONS, files).models["wine"]

    def find(self, version: CatalogVersion) -> Target | None:
        """Return the target of a version."""
        return None if version.signature is None else Target("wine", version.version, "", version.signature)

    def read(self, *, full: bool = False) -> model_pb2.Model:
        """Return what is on the wire."""
        (model,) = pb.ListModelsResponse.FromString(self.messages.get(self.model, full=full)).models
        return model

    def told(self) -> dict[str, tuple[int, str]]:
        """Return the state of each version, as it is on the wire."""
        return {version.version: (version.state, version.state_message) for version in self.read().versions}


V = model_pb2.ModelVersion


def test_states() -> None:
    """The registry's fault is told first, then the worker's state; what was not read yet is no failure."""
    world = World()
    assert world.told() == {
        "1": (V.STATE_DISCOVERED, ""),
        "2": (V.STATE_FAILED, "has a signature that can't be read"),
        "3": (V.STATE_DISCOVERED, "was not read yet"),
        "4": (V.STATE_DISCOVERED, "has no signature"),
    }
    world.states["1"] = Status(WorkerState.AVAILABLE)
    world.states["4"] = Status(WorkerState.FAILED, "died")
    assert world.told()["1"] == (V.STATE_AVAILABLE, "")
    assert world.told()["4"] == (V.STATE_FAILED, "died")


def test_what_did_not_change_is_kept() -> None:
    """The same model in the same states is written once for each view."""
    world = World()
    basic, full = world.messages.get(world.model, full=False), world.messages.get(world.model, full=True)
    assert basic != full
    assert world.messages.get(world.model, full=False) is basic
    assert world.messages.get(world.model, full=True) is full
    assert world.read(full=True).versions[-1].HasField("signature")
    assert not world.read().versions[-1].HasField("signature")


def test_every_change_shows() -> None:
    """A change of the model or of a state shows at once."""
    world = World()
    assert world.read().default_version == "1"
    world.model = world.make({"champion": "4"})
    assert (world.read().default_version, dict(world.read().aliases)) == ("4", {"champion": "4"})
    world.states["4"] = Status(WorkerState.LOADING)
    assert world.told()["4"][0] == V.STATE_LOADING
    world.states["4"] = Status(WorkerState.DISCOVERED)
    assert world.told()["4"][0] == V.STATE_DISCOVERED


def test_own_policy_of_a_model() -> None:
    """The tag prinz.default decides what the default version is; one that can't be read is told at each version."""
    world = World()
    world.model = world.make({"champion": "1"}, {"prinz.default": "version:4"})
    assert world.read().default_version == "4"
    world.model = world.make({"champion": "1"}, {"prinz.default": "newest"})
    assert world.read().default_version == "1"
    assert "prinz.default" in world.told()["1"][1]
    assert 'invalid version policy "newest"' in world.told()["1"][1]
    assert world.told()["2"][1] == "has a signature that can't be read"


def test_memory_is_bounded() -> None:
    """What is kept has a limit, and what does not fit is written each time."""
    world = World()
    size = len(world.messages.get(world.model, full=True))
    world.messages = world.writer(max_bytes=size)
    world.read(full=True)
    world.read(full=False)
    assert world.messages._bytes <= size
    assert len(world.messages._kept) == 1
    world.messages = world.writer(max_bytes=1)
    assert world.read(full=True).name == "wine"
    assert (world.messages._bytes, len(world.messages._kept)) == (0, 0)
