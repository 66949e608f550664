"""Settings: their sources, their order, and what is said of a fault."""

import json
import re
from pathlib import Path

import pytest

from prinz_enricher.config import ConfigError, Settings
from prinz_enricher.provision.loaders import allows


def test_each_source_wins_over_the_one_before(tmp_path: Path) -> None:
    """Flags win over the environment, the environment over the file, the file over the defaults."""
    file = tmp_path / "prinz.toml"
    file.write_text('[server]\nport = 1\nhost = "localhost"\n[registry]\nurl = "http://file"\ntimeout = 3\n')
    environment = {"PRINZ_SERVER__PORT": "2", "PRINZ_REGISTRY__URL": "http://environment"}

    settings = Settings.load({"server": {"port": 3}}, file, environment)

    assert settings.server.port == 3
    assert settings.server.host == "localhost"
    assert settings.registry.url == "http://environment"
    assert settings.registry.timeout == 3.0
    assert settings.registry.refresh_interval == 10.0


def test_list_in_the_environment() -> None:
    """A list is separated by commas in an environment variable, or is JSON; a pattern may begin as JSON does."""
    for text in ("wine, fraud-*", '["wine", "fraud-*"]'):
        settings = Settings.load(environment={"PRINZ_SCORING__PRELOAD": text})
        assert settings.scoring.preload == ("wine", "fraud-*")


@pytest.mark.parametrize("text", ['["wine"', "['wine']", "[wine]", '["wine", ]', ' ["wine", fraud]', '["a"] b'])
def test_what_looks_like_json_and_is_none_is_refused(text: str) -> None:
    """And is not taken for patterns that no model matches."""
    with pytest.raises(ConfigError, match=r'PRINZ_SCORING__PRELOAD is an invalid list; expected JSON such as \["a"'):
        Settings.load(environment={"PRINZ_SCORING__PRELOAD": text})


@pytest.mark.parametrize(
    ("text", "preload"),
    [("used", "used"), ("", ()), ("[ab]*", ("[ab]*",)), ("used,", ("used",)), ("used, wine", ("used", "wine"))],
)
def test_a_word_in_the_place_of_a_list(tmp_path: Path, text: str, preload: object) -> None:
    """What is preloaded is what was in use, by default as by its word; a list is one, even with that word alone."""
    assert Settings.load(environment={"PRINZ_SCORING__PRELOAD": text}).scoring.preload == preload
    file = tmp_path / "prinz.toml"
    written = text if preload == "used" else list(preload)
    file.write_text(f"[scoring]\npreload = {json.dumps(written)}\n")
    assert Settings.load(file=file, environment={}).scoring.preload == preload
    assert Settings().scoring.preload == "used"


def test_variables_of_kubernetes_are_left_alone() -> None:
    """Kubernetes' own PRINZ_ENRICHER_… variables are no settings and no faults."""
    settings = Settings.load(environment={"PRINZ_ENRICHER_PORT_50051_TCP_ADDR": "10.0.0.1", "PRINZ_ENRICHER_PORT": "x"})

    assert settings == Settings()


def test_blanks_around_a_pattern_of_loaders() -> None:
    """What is refused with a blank behind its ! is refused, and not let in by the pattern that allows all."""
    settings = Settings.load({"workers": {"allowed_loaders": [" * ", "! mlflow.spark", " !\tos "]}}, environment={})
    patterns = settings.workers.allowed_loaders
    assert patterns == ("*", "!mlflow.spark", "!os")
    assert [allows(patterns, loader) for loader in ("mlflow.sklearn", "mlflow.spark", "os")] == [True, False, False]


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        ({"servr": {}}, {}, 'unknown section "servr"; did you mean "server"?'),
        ({"server": {"prot": 1}}, {}, 'unknown key "prot" in section "server"; did you mean "port"?'),
        ({}, {"PRINZ_SERVER__PROT": "1"}, 'environment: unknown key "prot" in section "server"; did you mean "port"?'),
        ({"server": {"port": 65536}}, {}, "server.port: "),
        *(
            ({"workers": {"allowed_loaders": ["*", pattern]}}, {}, f'"{pattern}" is invalid as a pattern of loaders')
            for pattern in ("", "!", " ", "! ", "!!os", "!mlflow. spark")
        ),
        ({"scoring": {"default_version": ["newest"]}}, {}, 'invalid version policy "newest"'),
        ({"scoring": {"default_version": ["stage:Prod"]}}, {}, 'invalid version policy "stage:Prod"'),
        ({"scoring": {"default_version": ["version:1"]}}, {}, 'invalid version policy "version:1"'),
        ({"registry": {"include": [""]}}, {}, 'invalid rule ""'),
        ({"registry": {"include": []}}, {}, "registry.include: "),
        ({}, {"PRINZ_REGISTRY__EXCLUDE": "lab-*,tag:stage"}, 'invalid rule "tag:stage"'),
        ({"server": 5}, {}, "write it as [server]"),
        ({"scoring": {"preload": "wine"}}, {}, 'scoring.preload: "wine" is invalid; expected "used", or a list'),
        ({"scoring": {"preload": [1]}}, {}, "scoring.preload"),
    ],
)
def test_fault_is_named(flags: dict[str, dict[str, object]], environment: dict[str, str], said: str) -> None:
    """A fault is told with the place it stands in, and the nearest right key."""
    with pytest.raises(ConfigError) as raised:
        Settings.load(flags, environment=environment)

    assert said in str(raised.value)


@pytest.mark.parametrize("text", [None, "port = ", "[server]\nport = 'x'\n"])
def test_file_that_can_not_be_used(tmp_path: Path, text: str | None) -> None:
    """A file that is missing, is no TOML or holds a wrong value is a fault."""
    file = tmp_path / "prinz.toml"
    if text is not None:
        file.write_text(text)

    with pytest.raises(ConfigError):
        Settings.load(file=file, environment={})


@pytest.mark.parametrize(("page", "least"), [("registry", 6), ("remote", 3)])
def test_examples_of_the_pages(tmp_path: Path, page: str, least: int) -> None:
    """Every settings file that docs/registry.md and docs/remote.md show is one."""
    text = (Path(__file__).resolve().parents[2] / "docs" / f"{page}.md").read_text()
    examples = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    file = tmp_path / "prinz.toml"
    for example in examples:
        file.write_text(example)
        assert Settings.load(file=file, environment={}).registry.url
    assert len(examples) >= least


def test_several_registries(tmp_path: Path) -> None:
    """Each registry has a table of its own, which the environment can set too."""
    file = tmp_path / "settings.toml"
    file.write_text('[registries.team-a]\nurl = "http://a"\n[registries.b]\nurl = "http://b"\nprefix = "bb."\n')

    settings = Settings.load(
        file=file,
        environment={"PRINZ_REGISTRIES__TEAM_A__TOKEN": "hunter2", "PRINZ_REGISTRIES__B__INCLUDE": "x-*,y-*"},
    )

    assert list(settings.all_registries) == ["team-a", "b"]
    first, second = settings.all_registries.values()
    assert first.token.get_secret_value() == "hunter2"
    assert second.include == ("x-*", "y-*")
    assert (first.prefix_of("team-a"), second.prefix_of("b")) == ("team-a.", "bb.")
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[registries.a]\nprefix = "x"', "registries.a.url: is required"),
        ('[registries.a]\nurl = "http://a"\nulr = "x"', 'unknown key "ulr" in section "registries.a"'),
        ('[registries]\nurl = "http://a"', "write it as [registries.NAME]"),
        ('[registries."a b"]\nurl = "http://a"', 'invalid name of a registry: "a b"'),
        (
            '[registries.a]\nurl = "http://a"\nprefix = ""\n[registries.b]\nurl = "http://b"\nprefix = ""',
            "registries.b.prefix: is that of registries.a too",
        ),
        ('[registries.a]\nurl = "http://a"\ntimeout = 0', "registries.a.timeout: "),
    ],
)
def test_faults_of_a_registry_are_named(tmp_path: Path, text: str, fault: str) -> None:
    """A fault says of which registry it is."""
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        Settings.load(file=file, environment={})
    assert fault in str(error.value)
