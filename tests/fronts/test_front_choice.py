"""Which front is chosen, and what the log says of it."""

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


@NEEDS_RUST
def test_the_rust_front_is_taken_where_it_is_installed() -> None:
    """Auto means rust on any address, with TLS and without, and the settings can say otherwise."""
    assert chosen("auto") == chosen("auto", "0.0.0.0") == ("RustFront", "it is installed")  # noqa: S104 - closed at once
    tls = TlsSettings(certificate="tls.crt", key="tls.key")
    assert chosen("auto", tls=tls) == ("RustFront", "it is installed")
    assert chosen("rust") == ("RustFront", "by the settings")
    assert chosen("grpcio") == ("GrpcioFront", "by the settings")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto means grpcio where the Rust front is not installed, and to ask for it is refused in plain words."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    assert chosen("auto") == ("GrpcioFront", "prinz-enricher-front is not installed")
    assert chosen("grpcio") == ("GrpcioFront", "by the settings")
    with pytest.raises(FrontError, match="the rust front needs the package prinz-enricher-front"):
        chosen("rust")
