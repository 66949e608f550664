"""Static tokens: several, expiring, exchanged by editing their file; and what may not be in one."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from prinz_enricher.cli import group
from prinz_enricher.config import AuthSettings
from prinz_enricher.errors import TokenInvalid, TokenMissing
from prinz_enricher.security import watched_files
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.principal import ClientCertificate, Principal, Principals
from prinz_enricher.security.tokens import parse_tokens
from prinz_enricher.security.watched_files import SecurityError
from tests.support.deadline import wait_until

NOON_2027 = 1_798_804_800.0
MIDNIGHT_2027 = NOON_2027 - 43_200
CERTIFICATE = ClientCertificate("spiffe://corp/nk/1", ("nk.example.com", "other"), "nk")

Open = Callable[..., Authenticator]


def digest(token: str) -> str:
    """Return the digest of a token as its file has it."""
    return hashlib.sha256(token.encode()).hexdigest()


def entry(token: str, name: str = "scenarios", expires: str = "") -> str:
    """Return the entry of a token in its file."""
    end = f"expires = {expires}\n" if expires else ""
    return f'[[token]]\nname = "{name}"\nsha256 = "{digest(token)}"\n{end}'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the file of tokens, which has the token `first`."""
    path = tmp_path / "tokens.toml"
    path.write_text(entry("first"))
    return path


@pytest.fixture
def authenticator_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open authenticators that look often at their file, and close them."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.01)
    opened = []

    def build(file: Path | None, now: float = NOON_2027, *, client_certificates: bool = False) -> Authenticator:
        settings = AuthSettings(tokens_file=str(file or ""))
        opened.append(Authenticator(settings, client_certificates=client_certificates, clock=lambda: now))
        return opened[-1]

    yield build
    for authenticator in opened:
        authenticator.close()


def names(authenticator: Authenticator, *tokens: str) -> list[str]:
    """Return the name or the fault of the caller by each token."""
    found = [authenticator.known(f"Bearer {token}", None) for token in tokens]
    return [each.name if isinstance(each, Principal) else str(each) for each in found]


def test_several_tokens_of_a_caller(file: Path, authenticator_of: Open) -> None:
    """Each token names its caller, and all of one caller name the same object."""
    file.write_text(entry("first") + entry("second") + entry("third", "ops"))
    authenticator = authenticator_of(file)

    assert names(authenticator, "first", "second", "third") == ["scenarios", "scenarios", "ops"]
    assert authenticator.known("Bearer first", None) is authenticator.known("bearer   second ", None)


@pytest.mark.parametrize(
    ("expires", "until"),
    [
        ("2027-01-01", MIDNIGHT_2027),
        ("2027-01-01T12:00:00Z", NOON_2027),
        ("2027-01-01T12:00:00", NOON_2027),
        ("2027-01-01T13:00:00+01:00", NOON_2027),
    ],
)
def test_token_expires(file: Path, authenticator_of: Open, expires: str, until: float) -> None:
    """A token counts until the start of a day, or a time, which is in UTC unless it has a zone."""
    file.write_text(entry("first", expires=expires))

    assert names(authenticator_of(file, until - 0.001), "first") == ["scenarios"]
    assert "the token has expired" in names(authenticator_of(file, until), "first")[0]


@pytest.mark.parametrize(
    ("authorization", "why"),
    [
        ("Bearer other", "the token is unknown"),
        ("Bearer First", "the token is unknown"),
        ("Bearer " + "x" * 8_193, "longer than 8192 bytes"),
        *((text, 'not "Bearer <token>"') for text in ("first-first", "Basic first-first", "Bearer")),
        *((text, 'not "Bearer <token>"') for text in ("Bearer ", "Bearer f\udcfc")),
    ],
)
def test_unknown_token(file: Path, authenticator_of: Open, authorization: str, why: str) -> None:
    """It is refused with its reason, counted, and not shown."""
    authenticator = authenticator_of(file)
    found = authenticator.known(authorization, None)

    assert isinstance(found, TokenInvalid)
    assert why in found.message
    assert authenticator.failures() == {"TOKEN_MISSING": 0, "TOKEN_INVALID": 1}
    token = authorization.removeprefix("Bearer").strip()
    assert not token or token not in repr(found)


def test_call_without_a_token(file: Path, authenticator_of: Open) -> None:
    """It is refused, with or without a certificate that was not asked for."""
    authenticator = authenticator_of(file)
    for authorization in (None, ""):
        assert isinstance(authenticator.known(authorization, None), TokenMissing)
        assert isinstance(authenticator.verify(authorization, CERTIFICATE), TokenMissing)
    assert authenticator.failures()["TOKEN_MISSING"] == 4


def test_tokens_are_exchanged_by_their_file(file: Path, authenticator_of: Open) -> None:
    """A new token counts and an old one does not when the file has changed, also by a rename or a link."""
    authenticator = authenticator_of(file)

    file.write_text(entry("second"))
    wait_until(lambda: names(authenticator, "second") == ["scenarios"])
    assert "unknown" in names(authenticator, "first")[0]

    moved = file.with_name("new")
    moved.write_text(entry("third"))
    moved.replace(file)
    wait_until(lambda: names(authenticator, "third") == ["scenarios"])
    assert "unknown" in names(authenticator, "second")[0]

    file.write_text("token = []")
    wait_until(lambda: "unknown" in names(authenticator, "third")[0])
    assert authenticator.reload_failures() == {"tokens": 0}


def test_folder_behind_a_link_is_exchanged(tmp_path: Path, authenticator_of: Open) -> None:
    """Kubernetes exchanges the link to a folder of secrets; the file's own path stays as it is."""
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "tokens.toml").write_text(entry(f"token {number}".replace(" ", "-")))
    (tmp_path / "data").symlink_to("1")
    authenticator = authenticator_of(tmp_path / "data" / "tokens.toml")
    assert names(authenticator, "token-1") == ["scenarios"]

    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").replace(tmp_path / "data")
    wait_until(lambda: names(authenticator, "token-2") == ["scenarios"])


BAD: dict[str, tuple[str | bytes, str]] = {
    "not TOML": ("[[token]\n" + "sha256 = 'hunter2'", "is not TOML (at line 1, column 8)"),
    "not UTF-8": (b"\xff", "is not TOML"),
    "too deep": ("a = " + "[" * 100_000, "is not TOML"),
    "empty": ("", "must have [[token]] tables"),
    "another table": (f"[[tokens]]\n{entry('hunter2')}", "must have [[token]] tables"),
    "one table": ('[token]\nname = "a"', "must have [[token]] tables"),
    "no table": ("token = [1]", "the 1. [[token]] of it is not a table"),
    "unknown key": ('[[token]]\nhunter2 = "a"', "unknown key; known are expires, name, sha256"),
    "no name": (f'[[token]]\nsha256 = "{digest("a")}"', "name must be"),
    "a name of lines": (entry("a", "a\\nb"), "name must be"),
    "no digest": ('[[token]]\nname = "a"', "sha256 must be"),
    "the token itself": ('[[token]]\nname = "a"\nsha256 = "hunter2"', "sha256 must be"),
    "expires as a text": (entry("a", expires='"2027-01-01"'), "expires must be a date"),
    "expires as a time of day": (entry("a", expires="12:00:00"), "expires must be a date"),
    "twice": (entry("a") + entry("a", "b"), "the 2. [[token]] of it is listed twice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file(kind: str) -> None:
    """It is refused with one sentence that says where and why, and shows nothing of it."""
    content, why = BAD[kind]
    with pytest.raises(SecurityError) as found:
        parse_tokens("it", content.encode() if isinstance(content, str) else content, Principals())
    assert why in str(found.value)
    assert "hunter2" not in str(found.value)
    assert not re.search(r"[0-9a-f]{16}", str(found.value))


def test_bad_edit_keeps_the_old_tokens(file: Path, authenticator_of: Open) -> None:
    """It is logged and counted once; the next good one counts."""
    authenticator = authenticator_of(file)
    with structlog.testing.capture_logs() as logs:
        file.write_text(entry("second") + "[[token]]")
        wait_until(lambda: authenticator.reload_failures() == {"tokens": 1})
        assert names(authenticator, "first") == ["scenarios"]
        file.unlink()
        wait_until(lambda: authenticator.reload_failures() == {"tokens": 2})
        file.write_text(entry("second"))
        wait_until(lambda: names(authenticator, "second") == ["scenarios"])

    assert "unknown" in names(authenticator, "first")[0]
    assert [log["event"] for log in logs] == [
        *["new file is invalid, the old one stays in use"] * 2,
        "new file in use",
    ]
    assert "No such file" in logs[1]["why"]
    assert digest("second") not in str(logs)


def test_file_that_is_being_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read at the second look that finds it the same, and one that can't be read stops the start."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 3_600)
    files = watched_files.WatchedFiles("tokens", [str(file)], lambda contents: contents[0])
    for content in ("half", "whole file"):
        file.write_text(content)
        files.look()
        assert files.current == entry("first").encode()
    files.look()
    assert files.current == b"whole file"

    bad = {
        file.parent: "can't be read: Is a directory",
        file.parent / "none": "can't be read: No such file",
        Path("/dev/null"): "is not a file",
    }
    for path, why in bad.items():
        with pytest.raises(SecurityError, match=why):
            watched_files.WatchedFiles("tokens", [str(path)], lambda contents: contents)


def test_bad_content_is_counted_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a file is looked at, a bad one counts once, and a good one is handed on once."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 3_600)
    handed: list[object] = []
    files = watched_files.WatchedFiles("tokens", [str(file)], lambda read: parse_tokens("it", read[0], Principals()))
    files.start(handed.append)
    for content, failures, new in (("", 1, 0), (entry("second"), 1, 1), ("[", 2, 1), (entry("third"), 2, 2)):
        file.write_text(content)
        for _ in range(4):
            files.look()
        assert (files.failures, len(handed)) == (failures, new)
    files.stop()


def test_file_that_is_exchanged_while_it_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half of two contents is no failure: the file is read again."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 3_600)

    def parse(contents: Sequence[bytes]) -> bytes:
        if contents[0] == b"half":
            file.write_text("whole content")
            raise SecurityError("half")
        return contents[0]

    files = watched_files.WatchedFiles("tokens", [str(file)], parse)
    file.write_text("half")
    for _ in range(4):
        files.look()
    assert (files.current, files.failures) == (b"whole content", 0)


def test_names_of_a_client_certificate(authenticator_of: Open) -> None:
    """It names the caller by its SPIFFE id, else its first DNS name, else its common name; or is refused."""
    authenticator = authenticator_of(None, client_certificates=True)
    found = [
        authenticator.known("Bearer is not asked for", certificate)
        for certificate in (
            CERTIFICATE,
            CERTIFICATE._replace(spiffe_id=""),
            ClientCertificate("", (), "nk"),
            CERTIFICATE,
        )
    ]
    assert [each.name for each in found if isinstance(each, Principal)] == [
        *("spiffe://corp/nk/1", "nk.example.com", "nk", "spiffe://corp/nk/1")
    ]
    assert found[0] is found[3]
    for name in ("", "a\nb", "a" * 257):
        assert "has no SPIFFE id" in str(authenticator.known(None, ClientCertificate("", (), name)))
    assert isinstance(authenticator.known(None, None), TokenMissing)


def test_token_wins_over_a_certificate(file: Path, authenticator_of: Open) -> None:
    """With both, the token names the caller, and a bad one is refused though the certificate is good."""
    authenticator = authenticator_of(file, client_certificates=True)
    found = authenticator.known("Bearer first", CERTIFICATE)
    assert isinstance(found, Principal)
    assert found.name == "scenarios"
    assert isinstance(authenticator.known("Bearer other", CERTIFICATE), TokenInvalid)
    assert isinstance(authenticator.known(None, CERTIFICATE), Principal)


def test_tokens_are_exchanged_under_many_threads(file: Path, authenticator_of: Open) -> None:
    """While four threads call and the file is exchanged twenty times, a token that stays is never refused."""
    authenticator = authenticator_of(file)
    ended = threading.Event()
    refused: list[object] = []

    def call() -> None:
        while not ended.wait(0.001):
            found = authenticator.known("Bearer first", None)
            if not isinstance(found, Principal) or found.name != "scenarios":
                refused.append(found)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            # As an editor does; a file that is being written is not read.
            new = file.with_name("new")
            new.write_text(entry(f"token-{number}") + entry("first"))
            new.replace(file)
            wait_until(lambda token=f"token-{number}": names(authenticator, token) == ["scenarios"])  # type: ignore[misc]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not refused
    assert authenticator.reload_failures() == {"tokens": 0}


@pytest.mark.parametrize("options", [[], ["--expires", "2999-12-31"]])
def test_command_makes_a_token(tmp_path: Path, authenticator_of: Open, options: list[str]) -> None:
    """`token new` prints a token once, and what makes it count when it is put into the file."""
    made = [
        CliRunner().invoke(group, ["token", "new", 'the "nk" \\ scenarios', *options]).output.partition("\n")
        for _ in range(2)
    ]
    file = tmp_path / "tokens.toml"
    file.write_text("".join(rest for _, _, rest in made))

    authenticator = authenticator_of(file)
    assert names(authenticator, *(token for token, _, _ in made)) == ['the "nk" \\ scenarios'] * 2
    assert made[0][0] != made[1][0]
    for token, _, rest in made:
        assert re.fullmatch(r"prinz_[\w-]{43}", token)
        assert token not in rest
        assert ("expires = 2999-12-31" in rest) == bool(options)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [([""], "printable"), (["a\nb"], "printable"), (["a", "--expires", "2020-01-01"], "must be a future day")],
)
def test_command_refuses(arguments: list[str], why: str) -> None:
    """A name that can't be one, and a day that has gone, end it without a token."""
    result = CliRunner().invoke(group, ["token", "new", *arguments])
    assert result.exit_code == 2
    assert why in result.output
    assert "prinz_" not in result.output


def test_no_digest_is_shown(file: Path, authenticator_of: Open) -> None:
    """Neither the repr of what holds tokens nor that of its settings shows one."""
    authenticator = authenticator_of(file)
    shown = f"{authenticator!r} {vars(authenticator)!r} {json.dumps(authenticator.reload_failures())}"
    assert digest("first") not in shown
