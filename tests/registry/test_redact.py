"""What may be shown of a message that somebody else wrote."""

import pytest

from prinz_enricher.registry.registry_errors import MAX_SHOWN_CHARACTERS, redact


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("ValueError: see https://user:secret@host/a?token=b now\nor later", "ValueError: see … now"),
        ("ValueError: url: /a?X-Signature=c, and so on", "ValueError: url: … and so on"),
        ("no route to host='10.1.2.3' today", "no route to … today"),
        ("cannot reach user:hunter2@host/path now", "cannot reach … now"),
        ("login token=hunter2", "login …"),
        ("headers: Authorization: Bearer hunter2", "headers: …"),
        ("headers: {'Authorization':'Basic hunter2'}", "headers: …"),
        ("a Bearer hunter2", "a …"),
        ("of blob sv=2024-01-01&sp=r&sig=hunter2%3D at", "of blob …"),
        ("by AccountName=a;AccountKey=hunter2==;EndpointSuffix=b", "by …"),
        ("dsn pwd=hunter2", "dsn …"),
        ('body {"user": "a", "password": "hunter2 and more"}', 'body {"user": "a", …'),
        ("sent Set-Cookie: session=hunter2", "sent …"),
        ("x-api-key : hunter2", "…"),
        ("AWS_SECRET_ACCESS_KEY = hunter2", "…"),
        ("X-Amz-Security-Token=hunter2", "…"),
        ("hunter2 is what we sent", "… is what we sent"),
        ("NoCredentialsError: Unable to locate credentials", "NoCredentialsError: Unable to locate credentials"),
        ("the design: a signature is missing", "the design: a signature is missing"),
        ("", ""),
    ],
)
def test_what_is_hidden(said: str, shown: str) -> None:
    """Addresses, queries, passwords and whatever follows the name of a secret; what is no secret stays."""
    assert redact(said, ["hunter2"] if said.startswith("hunter2") else []) == shown


@pytest.mark.parametrize("part", [":", "a:", "@:", "token", "a.b-", "sig sig", "'\"]", "?", "basic ", "credential"])
def test_a_long_message_is_cut_before_it_is_judged(part: str) -> None:
    """64 KiB that a pattern with nested repetitions never ends with are answered, and within the limit."""
    assert len(redact(part * (64 * 1024 // len(part)))) <= MAX_SHOWN_CHARACTERS


def test_half_a_secret_is_hidden() -> None:
    """A password that is cut before its host, or before the name that gives it away, is left out with its word."""
    filler = "https://" + "x" * 970
    assert redact(f"{filler} user:hunter2{'x' * 40}@host") == "…"
