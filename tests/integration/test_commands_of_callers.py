"""`serve` with TLS, client certificates and tokens, and the commands before it: who may call, and who may not."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from prinz_enricher.cli import group
from tests.support.certificates import Authority, Pair, self_signed
from tests.support.serve_process import Serve, serve

pytestmark = pytest.mark.slow

FRAUD = "MLF-FraudDetection-3"
COMMANDS = {
    "models": ["models"],
    "signature": ["signature", FRAUD],
    "score": ["score", FRAUD, "--input", "rows.csv", "--output", "scored.jsonl"],
    "loadtest": ["loadtest", FRAUD, "--concurrency", "1", "--duration", "0.1", "--warm-up", "0"],
}


class Callers:
    """Services that want a token, one of them over mutual TLS, and the files of their callers, in one folder."""

    def __init__(self, folder: Path, registry: str) -> None:
        self.folder = folder
        authority = Authority(folder)
        self.ca = authority.file
        self.server = authority.server()
        self.good = authority.sign("scenarios")
        self.expired = authority.sign("old", expired=True)
        self.unknown = Authority(folder, "other").sign("alien")
        self.unsigned = self_signed(folder, "alone")
        (folder / "rows.csv").write_text("age,gender,category,amount\n4,F,es_transportation,800\n")
        made = CliRunner().invoke(group, ["token", "new", "scenarios"]).output
        self.token = folder / "token"
        self.token.write_text(made.splitlines()[0] + "\n")
        tokens = folder / "tokens.toml"
        tokens.write_text(made.partition("\n")[2])
        self.variables = {"PRINZ_AUTH__TOKENS_FILE": str(tokens)}
        self.registry = registry

    def serve(self, *flags: object) -> Iterator[Serve]:
        """Run a service."""
        tls = ["--tls-certificate", self.server.certificate, "--tls-key", self.server.key, *flags]
        with serve("--registry", self.registry, *map(str, tls), variables=self.variables) as service:
            yield service

    def run(self, service: Serve, name: str, *flags: object) -> Result:
        """Run a command."""
        with pytest.MonkeyPatch.context() as context:
            context.chdir(self.folder)
            arguments = [*COMMANDS[name], "--address", service.address, *map(str, flags)]
            return CliRunner(env={"COLUMNS": "200"}).invoke(group, arguments)

    def refused(self, service: Serve, name: str, *flags: object) -> str:
        """Return what a command says that ends with an error."""
        result = self.run(service, name, *flags)
        assert result.exit_code == 1, result.output
        assert result.output.startswith("Error: ")
        return result.output.removeprefix("Error: ").removeprefix(f"{service.address}: ")


@pytest.fixture(scope="module")
def callers(sample_registry: object, tmp_path_factory: pytest.TempPathFactory) -> Callers:
    """The files."""
    return Callers(tmp_path_factory.mktemp("callers"), sample_registry.url)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def mutual(callers: Callers) -> Iterator[Serve]:
    """A service that wants a client certificate."""
    yield from callers.serve("--tls-client-ca", callers.ca)


@pytest.fixture(scope="module")
def tokens(callers: Callers) -> Iterator[Serve]:
    """A service with TLS that wants a token."""
    yield from callers.serve()


def pair(pair: Pair) -> list[object]:
    """Return the flags for a client's certificate."""
    return ["--certificate", pair.certificate, "--key", pair.key]


@pytest.mark.parametrize("command", COMMANDS)
def test_who_may(callers: Callers, mutual: Serve, tokens: Serve, command: str) -> None:
    """Each command goes by a certificate, by a certificate and a token, and by a token alone."""
    for service, flags in (
        (mutual, pair(callers.good)),
        (mutual, [*pair(callers.good), "--token-file", callers.token]),
        (tokens, ["--token-file", callers.token]),
    ):
        result = callers.run(service, command, "--ca", callers.ca, *flags)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_who_may_not_connect(callers: Callers, mutual: Serve, tokens: Serve, command: str) -> None:
    """Each fault of a connection is a sentence of its own, and the exit code 1."""
    ca = ["--ca", callers.ca]
    assert "may require TLS: connect with TLS\n" in callers.refused(tokens, command)
    assert "no trusted CA signed the server's certificate" in callers.refused(tokens, command, "--tls")
    elsewhere = callers.refused(tokens, command, *ca, "--server-name", "a.example")
    assert "certificate has other names than the address" in elsewhere
    assert "may require a client certificate" in callers.refused(mutual, command, *ca)
    for other in (callers.expired, callers.unknown, callers.unsigned):
        assert "may refuse the client's certificate" in callers.refused(mutual, command, *ca, *pair(other))


@pytest.mark.parametrize("command", COMMANDS)
def test_whose_token_is_none(callers: Callers, mutual: Serve, tokens: Serve, command: str) -> None:
    """A token that is missing or wrong is refused by its reason, over TLS and mutual TLS, and is shown to nobody."""
    wrong = callers.folder / "wrong"
    wrong.write_text("prinz_wrong\n")
    assert callers.refused(tokens, command, "--ca", callers.ca).startswith("TOKEN_MISSING: ")
    for service, flags in ((tokens, []), (mutual, pair(callers.good))):
        said = callers.refused(service, command, "--ca", callers.ca, *flags, "--token-file", wrong)
        assert said.startswith("TOKEN_INVALID: ")
        assert "--token-file, or PRINZ_TOKEN_FILE" in said
        assert "prinz_wrong" not in said + "".join(service.lines)


def test_a_command_with_a_service_of_its_own(callers: Callers, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --registry what is set for other callers, by whom and how the service is called, does not matter."""
    for name, value in callers.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PRINZ_SERVER__HOST", "0.0.0.0")  # noqa: S104 - which it must not listen on
    result = CliRunner().invoke(group, ["models", "--registry", callers.registry])
    assert result.exit_code == 0, result.output
    assert FRAUD in result.output
    monkeypatch.setenv("PRINZ_SCORING__WORKERS", "none")
    result = CliRunner().invoke(group, ["models", "--registry", callers.registry])
    assert (result.exit_code, result.output.startswith("Error: ")) == (1, True), result.output
