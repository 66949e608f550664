"""The client commands and servers with TLS, tokens and quotas."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result
from google.rpc import status_pb2

from prinz_enricher.cli import group
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.loadtest.scoring_server import ScoringServer, doubled, refusal
from tests.support.tls_servers import TlsServers, tls_servers

LOADTEST = ["loadtest", "double", "--concurrency", "1", "--duration", "0.1", "--warm-up", "0"]
TOKEN = "let-me-in"  # noqa: S105 - made up


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServers]:
    """The servers."""
    with tls_servers(tmp_path_factory.mktemp("certificates")) as servers:
        yield servers


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of three rows."""
    file = tmp_path / "rows.csv"
    file.write_text("x\n1\n2\n3\n")
    return file


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The file of the token."""
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    return file


def run(server: ScoringServer, *arguments: object, **environment: object) -> Result:
    """Run a command against a server."""
    variables = {"COLUMNS": "200", **{name: str(value) for name, value in environment.items()}}
    return CliRunner(env=variables).invoke(group, [*map(str, arguments), "--address", f"localhost:{server.port}"])


def refused(server: ScoringServer, *arguments: object) -> str:
    """Return what a command says that ends with an error."""
    result = run(server, *arguments)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


@pytest.mark.parametrize(
    ("command", "by"),
    [
        (["models"], "flags"),
        (["signature", "double"], "environment"),
        (["score", "double"], "flags"),
        (["score", "double"], "environment"),
        (LOADTEST, "flags"),
    ],
)
def test_every_command(servers: TlsServers, rows: Path, token: Path, command: list[str], by: str) -> None:
    """By flags or environment variables, each command has a certificate, a CA and a token."""
    wrong = refusal(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    servers.mutual.admit = lambda authorization: None if authorization == f"Bearer {TOKEN}" else wrong
    pair = servers.clients["client"]
    given = {"ca": servers.ca, "certificate": pair.certificate, "key": pair.key, "token_file": token}
    flags = [part for name, file in given.items() for part in (f"--{name.replace('_', '-')}", file)]
    variables = {f"PRINZ_{name.upper()}": file for name, file in given.items()}
    target = ["--input", rows, "--output", rows.with_name("scored.jsonl")] if command[0] == "score" else []
    if by == "flags":
        result = run(servers.mutual, *command, *target, *flags)
    else:
        result = run(servers.mutual, *command, *target, **variables)
    assert result.exit_code == 0, result.output
    assert TOKEN not in result.output


@pytest.mark.parametrize("command", [["signature", "double"], LOADTEST])
def test_what_is_wrong_with_a_connection(servers: TlsServers, command: list[str]) -> None:
    """A command that may not connect says in one sentence what is wrong, and below it what gRPC says."""
    said = refused(servers.plain, *command, "--ca", servers.ca)
    assert "the server has no TLS at this address: connect without TLS" in said
    said = refused(servers.tls, *command)
    assert "it may require TLS: connect with TLS" in said
    assert re.search(rf"TLS\n  gRPC: .*last error: .*127.0.0.1:{servers.tls.port}: .*\n$", said)
    assert "Is the service running" not in said
    assert "no trusted CA signed" in refused(servers.tls, *command, "--tls")
    said = refused(servers.tls, *command, "--ca", servers.ca, "--server-name", "a.example")
    assert "certificate has other names than the address" in said
    assert "may require a client certificate" in refused(servers.mutual, *command, "--ca", servers.ca)


@pytest.mark.parametrize("command", [["models"], LOADTEST])
def test_files_and_flags_that_make_no_sense(servers: TlsServers, token: Path, command: list[str]) -> None:
    """What can't work is refused before anything is sent, and no flag takes a token itself."""
    pair = servers.clients["client"]
    said = run(servers.tls, *command, "--certificate", pair.certificate)
    assert (said.exit_code, "--certificate and --key go together" in said.output) == (2, True)
    said = run(servers.tls, *command, "--ca", "/nowhere.pem")
    assert (said.exit_code, "'--ca' (env var: 'PRINZ_CA'): File '/nowhere.pem' does not exist" in said.output) == (
        2,
        True,
    )
    assert "token has no certificate" in refused(servers.tls, *command, "--ca", token)
    files = ["--ca", servers.ca, "--certificate", pair.certificate, "--key", pair.locked_key]
    assert "private key of the client has a password" in refused(servers.tls, *command, *files)
    assert run(servers.tls, *command, "--token", TOKEN).exit_code == 2
    far = CliRunner().invoke(group, [*command, "--address", "192.0.2.1:1", "--token-file", str(token)])
    assert far.exit_code == 1
    assert far.output == (
        "Error: the token would be sent to 192.0.2.1:1 unencrypted: use TLS, or allow an insecure token\n"
    )
    token.write_text("")
    assert "there is no token to send: the token is empty\n" in refused(servers.plain, *command, "--token-file", token)


@pytest.mark.parametrize("command", [["models"], [*LOADTEST, "--mode", "coalesced"]])
def test_an_insecure_token(token: Path, command: list[str]) -> None:
    """With --insecure the token goes to another machine than this one without TLS."""
    seen: set[str | None] = set()
    with ScoringServer() as server:
        server.admit = seen.add
        # An address of this machine that is not told to be one.
        given = [*command, "--address", f"0.0.0.0:{server.port}", "--token-file", str(token)]
        assert CliRunner().invoke(group, given).exit_code == 1
        assert not seen
        assert CliRunner().invoke(group, [*given, "--insecure"]).exit_code == 0
    assert seen == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("command", [["models"], LOADTEST])
@pytest.mark.parametrize(
    ("code", "reason", "hint"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING", "  --token-file, or PRINZ_TOKEN_FILE, names the file"),
        (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", "  --token-file, or PRINZ_TOKEN_FILE, names the file"),
        (grpc.StatusCode.PERMISSION_DENIED, "MODEL_FORBIDDEN", ""),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", "  A call may succeed in 2.5 s.\n"),
    ],
)
def test_who_may_not(code: grpc.StatusCode, reason: str, hint: str, command: list[str]) -> None:
    """A refusal is the service's sentence, and what to do."""
    with ScoringServer() as server:
        server.admit = lambda _: refusal(code, reason, retry_after=2.5 if "QUOTA" in reason else None)
        said = refused(server, *command)
    assert f"{reason}: so it is\n{hint}" in said
    assert "running" not in said


def test_score_waits_for_its_quota(rows: Path) -> None:
    """A file of more rows than the quota of a moment is scored, as quickly as it allows."""
    times: list[float] = []

    def every_second_one(number: int, request: pb.ScoreRequest) -> pb.ScoreResponse | status_pb2.Status:
        times.append(time.monotonic())
        if number % 2:
            return refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", retry_after=0.1)
        return doubled(number, request)

    target = rows.with_name("scored.jsonl")
    with ScoringServer() as server:
        server.answer = every_second_one
        command = ["score", "double", "--input", rows, "--output", target, "--batch-rows", "1"]
        result = run(server, *command)
        assert result.exit_code == 0, result.output
        assert target.read_text().splitlines() == ['{"y": 2.0}', '{"y": 4.0}', '{"y": 6.0}']
        assert len(times) == 5
        assert all(later - earlier >= 0.1 for earlier, later in zip(times[1::2], times[2::2], strict=True))
        assert "QUOTA_EXCEEDED: so it is" in refused(server, *command, "--wait", "0.05")
