"""Which front is chosen, and what the log says of it."""

import importlib.util
import resource
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from prinz_enricher.config import ServerSettings, TlsSettings
from prinz_enricher.fronts import grpc as choice
from prinz_enricher.service.calls import FrontError
from tests.support.front_core import NEEDS_RUST


def chosen(kind: Any, host: str = "::1", **keys: Any) -> tuple[str, str]:
    """Choose a front; return its class and the reason that the log gives."""
    with capture_logs() as logs:
        settings = ServerSettings(front=kind, host=host, port=0, max_message_bytes=1024, max_calls=1, **keys)
        front = choice.open_front(settings)
    front.drain(0.0)
    return type(front).__name__, logs[0]["why"]


@pytest.fixture
def without_rust(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Rust front is not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "prinz_enricher_front" else found(name)
    )


@NEEDS_RUST
def test_the_rust_front_is_taken_where_it_is_installed() -> None:
    """Auto means rust on any address, and the settings can say otherwise."""
    assert chosen("auto") == chosen("auto", "0.0.0.0") == ("RustFront", "it is installed")  # noqa: S104 - likewise
    tls = TlsSettings(certificate="tls.crt", key="tls.key")
    assert chosen("auto", tls=tls) == ("RustFront", "it is installed")
    assert chosen("rust") == ("RustFront", "by the settings")
    assert chosen("grpcio") == ("GrpcioFront", "by the settings")


@pytest.mark.usefixtures("without_rust")
def test_the_native_front_is_taken_where_the_rust_front_is_not_installed() -> None:
    """Auto means native, and the settings can say otherwise."""
    assert chosen("auto") == ("NativeFront", "it is installed")
    assert chosen("native") == ("NativeFront", "by the settings")
    assert chosen("grpcio") == ("GrpcioFront", "by the settings")


@pytest.mark.usefixtures("without_rust")
def test_where_others_can_reach_it() -> None:
    """Auto means grpcio with TLS, and on an address that is not loopback; native is taken there if it is asked for."""
    tls = TlsSettings(certificate="tls.crt", key="tls.key")
    assert chosen("auto", tls=tls) == ("GrpcioFront", "the native front has no TLS")
    why = "the native front is not safe from hostile callers, and others can reach this address"
    for host in ("0.0.0.0", "::", "192.0.2.1", "prinz.example.com"):  # noqa: S104 - nothing listens
        assert chosen("auto", host) == ("GrpcioFront", why)
    assert chosen("native", "192.0.2.1") == ("NativeFront", "by the settings")
    for host in ("127.0.0.1", "localhost", "127.0.0.2"):
        assert chosen("auto", host)[0] == "NativeFront"


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto means grpcio where both packages are missing, and a front without its own is refused in plain words."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert chosen("auto") == ("GrpcioFront", "pygrpc-native is not installed")
    for kind, package in (("native", "pygrpc-native"), ("rust", "prinz-enricher-front")):
        with pytest.raises(FrontError, match=f"the {kind} front needs the package {package}"):
            chosen(kind)


@pytest.mark.usefixtures("without_rust")
def test_where_memory_is_not_granted_in_advance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto means grpcio where a message that is only announced could end the process."""
    strict = tmp_path / "overcommit_memory"
    strict.write_text("2\n")
    monkeypatch.setattr(choice, "OVERCOMMIT", strict)
    assert chosen("auto") == ("GrpcioFront", "this system grants no memory in advance (vm.overcommit_memory is 2)")

    strict.write_text("0\n")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1 << 30, 1 << 30))
    assert chosen("auto")[0] == "GrpcioFront"
    assert chosen("native")[0] == "NativeFront"
