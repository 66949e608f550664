"""TLS and tokens."""

import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from prinz_enricher.client import ServiceError, Tls
from prinz_enricher.client.connection import BearerToken


def test_half_a_pair() -> None:
    """A certificate without its key is refused, and so is a key without its certificate."""
    with pytest.raises(ValueError, match="go together"):
        Tls(certificate=b"certificate")
    with pytest.raises(ValueError, match="go together"):
        Tls(key=b"key")


def test_a_key_is_not_shown() -> None:
    """What a log may show of it is without the key."""
    assert "hush" not in repr(Tls(certificate=b"certificate", key=b"hush"))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A file of PEM is read when the credentials are made."""
    with pytest.raises(FileNotFoundError):
        Tls(ca=tmp_path / "none.pem").credentials()


def test_no_token() -> None:
    """Without a token nothing is sent."""
    assert BearerToken(None).metadata() == ()


def test_a_token_itself() -> None:
    """A token is sent as it is, without the line end that it may have."""
    assert BearerToken("one\n").metadata() == (("authorization", "Bearer one"),)


@pytest.mark.parametrize("token", ["", " \n", "two words", "line\nfeed", "ümlaut", "bell\a"])
def test_what_is_no_token(token: str) -> None:
    """What a header can't hold is refused, and not repeated."""
    with pytest.raises(ValueError, match="the token") as raised:
        BearerToken(token)
    assert not token.strip() or token not in str(raised.value)


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A token that is written anew, or put in the place of the old file, is the one that is sent next."""
    path = tmp_path / "token"
    path.write_text("one\n")
    bearer = BearerToken(path)
    assert bearer.metadata() == bearer.metadata() == (("authorization", "Bearer one"),)
    path.write_text("second\n")
    assert bearer.metadata() == (("authorization", "Bearer second"),)
    path.write_text("")
    assert bearer.metadata() == (("authorization", "Bearer second"),)
    (tmp_path / "new").write_text("thirds\n")
    (tmp_path / "new").replace(path)
    assert bearer.metadata() == (("authorization", "Bearer thirds"),)


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    """Without its file a call fails with UNAUTHENTICATED before anything is sent; with it again, it goes on."""
    path = tmp_path / "token"
    path.write_text("one")
    bearer = BearerToken(path)
    bearer.metadata()
    path.unlink()
    with pytest.raises(ServiceError) as raised:
        bearer.metadata()
    assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED
    path.write_text("one")
    os.utime(path, ns=(1, 1))
    assert bearer.metadata() == (("authorization", "Bearer one"),)


@pytest.mark.parametrize("give", [lambda: "", lambda: (_ for _ in ()).throw(OSError("no vault"))])
def test_a_function_that_gives_none(give: Callable[[], str]) -> None:
    """Where a function gives no token the call fails with UNAUTHENTICATED."""
    with pytest.raises(ServiceError, match="there is no token"):
        BearerToken(give).metadata()


def test_a_function_is_asked_each_time() -> None:
    """A function gives the token of each message."""
    tokens = iter(["one", "two"])
    bearer = BearerToken(lambda: next(tokens))
    assert [bearer.metadata()[0][1] for _ in range(2)] == ["Bearer one", "Bearer two"]
