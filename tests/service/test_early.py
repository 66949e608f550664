"""A model's environment is made while its other files are downloaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from prinz_enricher.config import CacheSettings, WorkerSettings
from prinz_enricher.provision.disk_cache import Lease
from prinz_enricher.provision.environments import Environment, Environments
from prinz_enricher.provision.progress import steps_reported_to
from prinz_enricher.provision.provision_errors import BuildFailed, Cancelled, LoaderForbidden, RequirementsRefused
from prinz_enricher.scoring.ports import LoaderRefused, LoadFailed, RegistryAway, Target
from prinz_enricher.service.provisioner import EarlyEnvironment, Provisioner
from prinz_enricher.service.registries import OpenRegistry, Registries
from tests.scoring.scripted import target_of
from tests.support.registry_writer import mlmodel_text

SECONDS = 30.0
ALLOWED = ("mlflow.sklearn",)
FORBIDDEN = "flavors: {python_function: {loader_module: evil}}"


class Held:
    """A lease that tells whether it was closed."""

    closed = False

    def close(self) -> None:
        """Let go."""
        self.closed = True


@dataclass
class ScriptedEnvironments:
    """Environments that a test makes.

    Attributes:
        asked: The folders that they were made for, with the files in each.
        making: Set while one is made.
        go: It is made, or not, once this is set.
        fault: What comes of the first.
        leases: Of those that were made.
    """

    asked: list[tuple[Path, set[str]]] = field(default_factory=list)
    making: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    fault: Exception | None = None
    leases: list[Held] = field(default_factory=list)

    def get(
        self, folder: Path, *, cancelled: Callable[[], bool], mode: str = "", accelerate: bool = False
    ) -> Environment:
        """Make one."""
        self.asked.append((folder, {path.name for path in folder.iterdir()}))
        self.making.set()
        while not self.go.wait(0.01):
            if cancelled():
                raise Cancelled
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        self.leases.append(Held())
        return Environment(Path("/python"), cast("Lease", self.leases[-1]), isolated=False)


def early(environments: ScriptedEnvironments, cancelled: Callable[[], bool] = lambda: False) -> EarlyEnvironment:
    """Prepare to make an environment early."""
    return EarlyEnvironment(environments.get, ALLOWED, cancelled)


def part(folder: Path, mlmodel: str | None = None) -> Path:
    """Make the part of a model that tells what it needs."""
    folder.mkdir()
    (folder / "MLmodel").write_text(mlmodel_text() if mlmodel is None else mlmodel)
    (folder / "requirements.txt").write_text("numpy")
    return folder


def test_it_is_made_beside_the_download(tmp_path: Path) -> None:
    """From a copy, since the folder is moved; it is held until the end, and then let go of."""
    scripted = ScriptedEnvironments()
    folder = part(tmp_path / "part")
    told: list[str] = []
    with early(scripted) as one, steps_reported_to(told.append):
        one.begin(folder)
        assert scripted.making.wait(SECONDS)
        folder.rename(tmp_path / "moved")
        ((copy, names),) = scripted.asked
        assert copy != folder
        assert names == {"MLmodel", "requirements.txt"}
        threading.Timer(0.05, scripted.go.set).start()
        one.wait()
        assert told == ["building its environment"]
        assert [lease.closed for lease in scripted.leases] == [False]
        one.wait()
        assert told == ["building its environment"]
    assert [lease.closed for lease in scripted.leases] == [True]
    assert not copy.exists()


def test_a_loader_that_is_not_allowed(tmp_path: Path) -> None:
    """Nothing is built for it."""
    scripted = ScriptedEnvironments()
    with early(scripted) as one:
        with pytest.raises(LoaderForbidden):
            one.begin(part(tmp_path / "part", FORBIDDEN))
        one.wait()
    assert scripted.asked == []


def test_a_download_that_fails_ends_it(tmp_path: Path) -> None:
    """Nobody waits for an environment of a model that is not there; one that was made is let go of."""
    scripted = ScriptedEnvironments()

    def download() -> None:
        with early(scripted) as one:
            one.begin(part(tmp_path / "part"))
            assert scripted.making.wait(SECONDS)
            raise KeyError

    with pytest.raises(KeyError):
        download()
    assert scripted.leases == []
    assert not [thread for thread in threading.enumerate() if thread.name == "early-environment"]


def test_who_cancels_does_not_wait(tmp_path: Path) -> None:
    """Neither for the environment nor for the thread that makes it."""
    cancel = threading.Event()
    scripted = ScriptedEnvironments()
    with early(scripted, cancel.is_set) as one:
        one.begin(part(tmp_path / "part"))
        assert scripted.making.wait(SECONDS)
        threading.Timer(0.05, cancel.set).start()
        with suppress(Cancelled):
            one.wait()
    assert cancel.is_set()
    assert scripted.leases == []


@dataclass
class OneModel:
    """A registry with one model, that gives the rest of it when its environment is being made."""

    scripted: ScriptedEnvironments
    mlmodel: str | None = None
    fails: bool = False

    def of(self, _: Target) -> OpenRegistry:
        """Return itself, as its own client, and how it is reached."""
        return cast("OpenRegistry", self)

    @property
    def client(self) -> OneModel:
        """Itself."""
        return self

    @property
    def access(self) -> OneModel:
        """Itself."""
        return self

    tracking_uri = "http://nowhere"
    origin = ""

    def folder(self, _: Target) -> str:
        """Tell where its files are."""
        return "mlflow-artifacts:/any"

    def fetch_variables(self, folder: Path) -> Mapping[str, str] | None:
        """Start no process."""
        raise AssertionError("a process was to be started")

    def download(self, _uri: str, folder: Path, *, max_bytes: int, watch: Any, begun: Any) -> bool:
        """Give some files, and the others."""
        begun(part(folder, self.mlmodel))
        assert self.scripted.making.wait(SECONDS)
        if self.fails:
            raise RegistryAway("no")
        (folder / "model.skops").write_text("rest")
        watch(1, 1)
        self.scripted.go.set()
        return True


def provisioner(folder: Path, registry: OneModel) -> Provisioner:
    """Make a provisioner with scripted environments."""
    made = Provisioner(cast("Registries", registry), CacheSettings(folder=str(folder)), WorkerSettings())
    made.environments = cast("Environments", registry.scripted)
    return made


def test_what_can_not_be_built_is_not_built_twice(tmp_path: Path) -> None:
    """The early try has all that says what is needed; to fail may have taken it minutes."""
    scripted = ScriptedEnvironments(fault=BuildFailed("no such package"))
    with pytest.raises(LoadFailed, match="no such package"):
        provisioner(tmp_path, OneModel(scripted))(target_of(), lambda: False)
    assert len(scripted.asked) == 1


@pytest.mark.parametrize("fault", [None, RequirementsRefused("no wheels"), ValueError("anything")])
def test_what_is_there_in_the_end_decides(tmp_path: Path, fault: Exception | None) -> None:
    """Whatever became of the early try, the environment is asked for with all files; that one is held."""
    scripted = ScriptedEnvironments(fault=fault)
    provisions = provisioner(tmp_path, OneModel(scripted))(target_of(), lambda: False)
    assert [names for _, names in scripted.asked] == [
        {"MLmodel", "requirements.txt"},
        {"MLmodel", "requirements.txt", "model.skops"},
    ]
    assert scripted.asked[1][0] == provisions.model
    assert [lease.closed for lease in scripted.leases] == ([True, False] if fault is None else [False])
    provisions.close()
    assert all(lease.closed for lease in scripted.leases)


def test_a_model_that_is_there_has_no_early_try(tmp_path: Path) -> None:
    """It is not downloaded."""
    scripted = ScriptedEnvironments()
    made = provisioner(tmp_path, OneModel(scripted))
    made(target_of(), lambda: False).close()
    made(target_of(), lambda: False).close()
    assert len(scripted.asked) == 3


def test_a_forbidden_loader_ends_the_download(tmp_path: Path) -> None:
    """Its other files are not got, and nothing is built."""
    scripted = ScriptedEnvironments()
    with pytest.raises(LoaderRefused):
        provisioner(tmp_path, OneModel(scripted, FORBIDDEN))(target_of(), lambda: False)
    assert scripted.asked == []
    assert list((tmp_path / "models").iterdir()) == []


def test_a_failed_download_leaves_no_environment(tmp_path: Path) -> None:
    """That is being built for nobody."""
    scripted = ScriptedEnvironments()
    with pytest.raises(RegistryAway):
        provisioner(tmp_path, OneModel(scripted, fails=True))(target_of(), lambda: False)
    assert len(scripted.asked) == 1
    assert scripted.leases == []
