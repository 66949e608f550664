"""Certificates: which are accepted, and that they are exchanged while the service runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from prinz_enricher.config import TlsSettings
from prinz_enricher.security import watched_files
from prinz_enricher.security.certificates import CertificateFiles, Certificates
from prinz_enricher.security.watched_files import SecurityError
from tests.support.certificates import Authority, Pair
from tests.support.deadline import wait_until

DAY = 86_400.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Sign certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pairs(authority: Authority) -> list[Pair]:
    """Return two certificates with their keys, each good for a day."""
    return [authority.server("first"), authority.server("second")]


def settings(folder: Path, client_ca: str = "") -> TlsSettings:
    """Return the settings of a certificate and its key in a folder."""
    return TlsSettings(certificate=str(folder / "tls.crt"), key=str(folder / "tls.key"), client_ca=client_ca)


def write(folder: Path, certificate: bytes, key: bytes) -> None:
    """Put a certificate and its key in the place of others, as one that renews them does."""
    for name, content in (("tls.crt", certificate), ("tls.key", key)):
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / name)


def write_pair(folder: Path, pair: Pair) -> bytes:
    """Put a pair in the place of another one, and return its certificate."""
    write(folder, pair.certificate.read_bytes(), pair.key.read_bytes())
    return pair.certificate.read_bytes()


@pytest.fixture
def files(tmp_path: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> Iterator[CertificateFiles]:
    """Watch the first pair in the folder `tmp_path`."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.02)
    write_pair(tmp_path, pairs[0])
    watched = CertificateFiles(settings(tmp_path))
    yield watched
    watched.stop()


def test_good_pair(tmp_path: Path, authority: Authority, pairs: list[Pair]) -> None:
    """The chain, the key, the authorities of clients, and when the certificate expires; the key is not shown."""
    chain = write_pair(tmp_path, pairs[0])
    with_authority = CertificateFiles(settings(tmp_path, str(authority.file))).current
    alone = CertificateFiles(settings(tmp_path)).current

    assert (with_authority.chain, with_authority.key) == (chain, pairs[0].key.read_bytes())
    assert (with_authority.client_ca, alone.client_ca) == (authority.file.read_bytes(), None)
    assert abs(alone.not_after - pairs[0].key.stat().st_mtime - DAY) < 3_600
    assert "PRIVATE" not in repr(alone)


def fault(files: Callable[[], object]) -> str:
    """Return why files can't be used, without a part of a key."""
    with pytest.raises(SecurityError) as found:
        files()
    assert "PRIVATE" not in str(found.value)
    return str(found.value)


def test_what_is_refused_at_the_start(tmp_path: Path, authority: Authority, pairs: list[Pair]) -> None:
    """Each fault of a file is one sentence with its path."""
    first, second = pairs
    good, key = first.certificate.read_bytes(), first.key.read_bytes()
    expired = authority.sign("expired", expired=True)
    unusable = x25519.X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    folder = settings(tmp_path)
    assert "tls.crt can't be read: No such file" in fault(lambda: CertificateFiles(folder))
    for certificate, private, why in (
        (b"", key, "tls.crt is not a certificate in PEM"),
        (good[:-60], key, "tls.crt is not a certificate in PEM"),
        (key, key, "tls.crt is not a certificate in PEM"),
        (good, good, "tls.key is not a private key in PEM"),
        (good, b"\xff", "tls.key is not a private key in PEM"),
        (good, first.locked_key.read_bytes(), "tls.key has a password"),
        (good, second.key.read_bytes(), "tls.key does not belong to the first certificate of"),
        (authority.file.read_bytes() + good, key, "does not belong to the first certificate of"),
        (good, unusable, "does not belong to the first certificate of"),
        (expired.certificate.read_bytes(), expired.key.read_bytes(), "tls.crt expired at 20"),
        (b"#" * (4 << 20) + good, key, "tls.crt is longer than 4194304 bytes"),
    ):
        write(tmp_path, certificate, private)
        assert why in fault(lambda: CertificateFiles(folder)), why
    write_pair(tmp_path, first)
    assert "is not valid before 20" in fault(lambda: CertificateFiles(folder, clock=lambda: 1e9))
    with_bad_authority = settings(tmp_path, str(tmp_path / "tls.key"))
    assert "tls.key is not a certificate in PEM" in fault(lambda: CertificateFiles(with_bad_authority))
    os.mkfifo(tmp_path / "pipe")
    assert "pipe is not a file" in fault(lambda: CertificateFiles(settings(tmp_path, str(tmp_path / "pipe"))))


def test_pair_is_exchanged(tmp_path: Path, files: CertificateFiles, pairs: list[Pair]) -> None:
    """A new pair is there, and handed on, when both of its files have changed; never one half of each."""
    handed: list[Certificates] = []
    files.start(handed.append)
    for number in range(20):
        chain = write_pair(tmp_path, pairs[(number + 1) % 2])
        wait_until(lambda chain=chain: files.current.chain == chain)  # type: ignore[misc]
        assert files.current.key == pairs[(number + 1) % 2].key.read_bytes()
    wait_until(lambda: len(handed) == 20)
    assert handed[-1] is files.current


def test_bad_pair_is_counted_and_the_old_one_goes_on(
    tmp_path: Path, files: CertificateFiles, authority: Authority, pairs: list[Pair]
) -> None:
    """Half a pair, an expired one and a missing file are logged and counted once each; a good one counts again."""
    files.start()
    old = files.current
    expired = authority.sign("expired", expired=True)
    with structlog.testing.capture_logs() as logs:
        for number, (certificate, key) in enumerate(
            [
                (pairs[1].certificate.read_bytes(), pairs[0].key.read_bytes()),
                (expired.certificate.read_bytes(), expired.key.read_bytes()),
            ]
        ):
            failures = files.failures
            write(tmp_path, certificate, key)
            wait_until(lambda failures=failures: files.failures > failures)  # type: ignore[misc]
            wait_until(lambda number=number: len(logs) > number)  # type: ignore[misc]
            assert files.current is old
        failures = files.failures
        (tmp_path / "tls.key").unlink()
        wait_until(lambda: files.failures > failures)
        write_pair(tmp_path, pairs[1])
        wait_until(lambda: files.current is not old)
    assert {log["log_level"] for log in logs} == {"error", "info"}
    assert {log["what"] for log in logs} == {"certificate"}
    assert "PRIVATE" not in str(logs)


def test_fault_of_who_takes_a_new_pair(tmp_path: Path, files: CertificateFiles, pairs: list[Pair]) -> None:
    """An exception of a server that takes a new pair is counted, and the next pair is handed on."""
    handed: list[bytes] = []

    def take(new: Certificates) -> None:
        handed.append(new.chain)
        if len(handed) == 1:
            raise OSError("no more memory")

    files.start(take)
    second = write_pair(tmp_path, pairs[1])
    wait_until(lambda: files.failures == 1)
    first = write_pair(tmp_path, pairs[0])
    wait_until(lambda: handed[-1:] == [first])
    assert handed[0] == second
