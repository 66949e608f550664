"""The Rust server by the programs of others: h2spec for HTTP/2, gRPC's own interoperability client for gRPC."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from prinz_enricher.config import TlsSettings
from prinz_enricher.security.certificates import CertificateFiles
from tests.support.certificates import Authority
from tests.support.front_core import NEEDS_RUST, running_front
from tests.support.interop_server import interop_server

pytestmark = [pytest.mark.slow, NEEDS_RUST]

PEERS = {
    "h2spec": "github.com/summerwind/h2spec/cmd/h2spec@v2.6.0",
    "client": "google.golang.org/grpc/interop/client@v1.77.0",
}
CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
)


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs, which Go builds."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go builds the programs, and is not installed")
    folder = tmp_path_factory.mktemp("peers")
    for package in PEERS.values():
        subprocess.run([go, "install", package], env=environment(folder), check=True, timeout=600)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return variables with which Go installs into a folder."""
    return os.environ | {"GOBIN": str(folder)}


def test_h2spec(peers: Path) -> None:
    """It keeps the rules of HTTP/2 and HPACK."""
    with running_front("rust") as running:
        done = subprocess.run(
            [peers / "h2spec", "--port", str(running.port), "--path", "/prinz.enricher.v1.EnricherService/Score"],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert " 0 failed" in done.stdout, done.stdout


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
def test_interoperability(peers: Path, tmp_path: Path, case: str, tls: bool) -> None:
    """The client of gRPC gets what it expects, in plaintext and by TLS."""
    certificates, arguments = None, []
    if tls:
        authority = Authority(tmp_path)
        pair = authority.server()
        files = CertificateFiles(TlsSettings(certificate=str(pair.certificate), key=str(pair.key)))
        certificates = files.current
        arguments = ["--use_tls", "--use_test_ca", f"--ca_file={authority.file}", "--server_host_override=localhost"]
    with interop_server(certificates) as port:
        done = subprocess.run(
            [peers / "client", f"--server_port={port}", "--server_host=127.0.0.1", f"--test_case={case}", *arguments],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
