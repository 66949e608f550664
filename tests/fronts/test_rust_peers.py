"""The Rust server by the programs of others: h2spec for HTTP/2, gRPC's own interoperability client for gRPC."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from prinz_enricher.config import TlsSettings
from prinz_enricher.fronts.grpc import SERVICE
from prinz_enricher.security.certificates import CertificateFiles
from tests.support.certificates import Authority
from tests.support.front_core import NEEDS_RUST, running_front
from tests.support.interop_server import interop_server

# Go builds the programs first.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), NEEDS_RUST]

PEERS = {
    "h2spec": "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible",
    "client": "google.golang.org/grpc/interop/client@v1.77.0",
    "grpc-health-probe": "github.com/grpc-ecosystem/grpc-health-probe@v0.4.42",
    "grpcurl": "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
    "ghz": "github.com/bojand/ghz/cmd/ghz@v0.120.0",
}
CHECK = "grpc.health.v1.Health/Check"
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
        built = subprocess.run(
            [go, "install", package], env=environment(folder), capture_output=True, text=True, check=False, timeout=600
        )
        if built.returncode:
            pytest.skip(f"{package} can't be built here: {built.stderr[-300:]}")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return variables with which Go installs into a folder."""
    return os.environ | {"GOBIN": str(folder)}


NOT_KEPT = {
    "Sends a WINDOW_UPDATE frame on half-closed (remote) stream": "what is not gRPC is answered without DATA",
    "Sends a PRIORITY frame on half-closed (remote) stream": "what is not gRPC is answered without DATA",
    "Sends invalid connection preface": "the connection is closed, by a reset where more was sent than is read",
    "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded": (
        "what is not gRPC is answered at the end of its body, which is here that of its headers"
    ),
}
"""Cases of h2spec that fail, and why."""


def test_h2spec(peers: Path) -> None:
    """It keeps the rules of HTTP/2 and HPACK, but for the exceptions."""
    with running_front("rust") as running:
        done = subprocess.run(
            [peers / "h2spec", "--port", str(running.port), "--path", "/prinz.enricher.v1.EnricherService/Score"],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert " 145 tests" in f" {done.stdout.rpartition('seconds')[2].strip()}", done.stdout
    assert set(re.findall(r"\u00d7 \d+: (.*)", done.stdout)) <= set(NOT_KEPT), done.stdout


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


def run(program: Path, *arguments: str) -> str:
    """Run a program to its end, and return what it prints."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_clients_of_go(peers: Path) -> None:
    """A probe hears the health, grpcurl finds the service and its methods, and each call of ghz is answered."""
    with running_front("rust") as running:
        address = f"127.0.0.1:{running.port}"
        running.front.set_health({"": True, "model/a": False})
        run(peers / "grpc-health-probe", f"-addr={address}")
        down = subprocess.run(
            [peers / "grpc-health-probe", f"-addr={address}", "-service=model/a"], capture_output=True, check=False
        )
        assert down.returncode == 4
        assert "ScoreStream" in run(peers / "grpcurl", "-plaintext", address, "describe", SERVICE.full_name)
        health = run(peers / "grpcurl", "-plaintext", "-d", "{}", address, CHECK)
        assert json.loads(health) == {"status": "SERVING"}
        options = ("--insecure", "--format", "json", "--total", "2000", "--concurrency", "50", "--connections", "5")
        report = json.loads(run(peers / "ghz", *options, "--call", CHECK.replace("/", "."), "--data", "{}", address))
        assert (report["count"], report["statusCodeDistribution"]) == (2000, {"OK": 2000})
