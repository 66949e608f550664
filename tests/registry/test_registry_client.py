"""The registry client before a real MLflow server."""

from collections.abc import Iterator

import pytest

from prinz_enricher.registry import MlmodelUnreadable, ModelVersion, RegistryClient, RegistryError, RegistryRefused
from tests.support.registry_writer import RegistryWriter, mlmodel_text

ODD_NAME = "Żółć 100% & räd? #1 \"quoted\" 'single' + plus"


@pytest.fixture(scope="module")
def client(scratch_registry: RegistryWriter) -> Iterator[RegistryClient]:
    """A client that asks for small pages."""
    with RegistryClient(scratch_registry.url, models_per_page=2, versions_per_page=3) as opened:
        yield opened


def find_version(client: RegistryClient, name: str, number: str) -> ModelVersion:
    """Return one version as the registry lists it."""
    return next(v for v in client.model_versions().items if (v.name, v.version) == (name, number))


def test_all_pages_are_read(client: RegistryClient, scratch_registry: RegistryWriter) -> None:
    """All models and versions are there, whatever the size of the pages."""
    names = [f"pages-{number}" for number in range(5)]
    for name in names:
        scratch_registry.create_model(name)
        scratch_registry.create_version(name)
        scratch_registry.create_version(name)
    listed = [model.name for model in client.registered_models().items]
    assert [name for name in listed if name.startswith("pages-")] == names
    assert len(set(listed)) == len(listed)
    versions = [(v.name, v.version) for v in client.model_versions().items if v.name.startswith("pages-")]
    assert versions == [(name, number) for name in names for number in ("1", "2")]


def test_everything_told_of_a_model_is_read(client: RegistryClient, scratch_registry: RegistryWriter) -> None:
    """Descriptions, tags, aliases, run, source and times are read."""
    scratch_registry.create_model("told", "A model.", {"team": "risk", "empty": ""})
    scratch_registry.create_version("told", tags={"stage": "new"}, description="A version.")
    scratch_registry.set_alias("told", "champion", "1")
    model = next(m for m in client.registered_models().items if m.name == "told")
    assert (model.description, model.tags, model.aliases) == (
        "A model.",
        {"team": "risk", "empty": ""},
        {"champion": "1"},
    )
    assert model.created_ms <= model.updated_ms
    version = find_version(client, "told", "1")
    assert (version.description, version.tags, version.status) == ("A version.", {"stage": "new"}, "READY")
    assert len(version.run_id) == 32
    assert version.source.startswith("mlflow-artifacts:/")
    assert version.created_ms > 1_600_000_000_000


def test_prompts_are_left_out(client: RegistryClient, scratch_registry: RegistryWriter) -> None:
    """MLflow's prompts, which it keeps among the registered models, are no models."""
    scratch_registry.create_model("a-prompt", tags={"mlflow.prompt.is_prompt": "true"})
    assert "a-prompt" not in {model.name for model in client.registered_models().items}


@pytest.mark.parametrize("folder", ["model", "my model", "100% ready", "żółw", "a+b;c=d", "q?x=1"])
def test_mlmodel_is_read_from_any_folder(client: RegistryClient, scratch_registry: RegistryWriter, folder: str) -> None:
    """The MLmodel file is read through the server's artifact proxy, whatever its folder is called."""
    name = f"folder {folder.encode().hex()}"
    scratch_registry.create_model(name)
    version = find_version(client, name, scratch_registry.create_version(name, folder=folder))
    assert set(client.mlmodel(version)) == {"flavors", "signature"}


def test_odd_names_are_read(client: RegistryClient, scratch_registry: RegistryWriter) -> None:
    """Names with spaces, quotes, percent signs and other alphabets are read as they are."""
    scratch_registry.create_model(ODD_NAME)
    number = scratch_registry.create_version(ODD_NAME)
    assert ODD_NAME in {model.name for model in client.registered_models().items}
    assert "signature" in client.mlmodel(find_version(client, ODD_NAME, number))


def test_missing_mlmodel_is_told_apart(client: RegistryClient, scratch_registry: RegistryWriter) -> None:
    """A file that is gone is not a passing fault."""
    scratch_registry.create_model("gone")
    version = find_version(client, "gone", scratch_registry.create_version("gone"))
    scratch_registry.mlmodel_path(version.source).unlink()
    with pytest.raises(RegistryRefused) as refused:
        client.mlmodel(version)
    assert refused.value.missing
    assert not refused.value.transient


@pytest.mark.parametrize(
    "content",
    ["[1, 2", "- a list", "just text", "", "a: " + "[" * 200_000, "a: &x {b: 1}\nc:\n  <<: *x\n", "a: !!int 1"],
    ids=["broken", "list", "text", "empty", "deep", "merge", "tag"],
)
def test_unreadable_mlmodel_is_refused(client: RegistryClient, scratch_registry: RegistryWriter, content: str) -> None:
    """A file that is not what MLflow writes is refused, even one made to end the process."""
    name = f"unreadable-{len(content)}"
    scratch_registry.create_model(name)
    version = find_version(client, name, scratch_registry.create_version(name, content))
    with pytest.raises(MlmodelUnreadable):
        client.mlmodel(version)


def test_too_large_mlmodel_is_refused(client: RegistryClient, scratch_registry: RegistryWriter) -> None:
    """A file of more than four megabytes is not read to its end."""
    scratch_registry.create_model("large")
    content = mlmodel_text() + "#" * (5 * 1024 * 1024)
    version = find_version(client, "large", scratch_registry.create_version("large", content))
    with pytest.raises(MlmodelUnreadable, match="larger"):
        client.mlmodel(version)


def test_no_server_is_unreachable(unused_tcp_port: int) -> None:
    """A server that is not there is an error of ours, not of httpx."""
    with (
        RegistryClient(f"http://127.0.0.1:{unused_tcp_port}") as client,
        pytest.raises(RegistryError, match="connection"),
    ):
        client.registered_models()
