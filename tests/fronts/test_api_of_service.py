"""The HTTP API of a whole service: opened and drained with it."""

from __future__ import annotations

import httpx
import pytest

from prinz_enricher.application import Application
from prinz_enricher.config import ConfigError, Settings
from prinz_enricher.service.calls import FrontError
from tests.support.inline_pool import InlinePool


def settings(**api: object) -> Settings:
    """Return settings with a registry that is away."""
    return Settings.load(
        {
            "registry": {"url": "http://127.0.0.1:9", "snapshot_folder": ""},
            "server": {"port": 0, "grace_period": 1},
            "api": {"port": 0, **api},
        },
        environment={},
    )


def test_with_the_service() -> None:
    """It listens once the service does, and answers also while no registry is known."""
    application = Application(settings(), pool=InlinePool(lambda _: lambda batch, _: batch))
    application.start()
    try:
        port = application.api_port
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            answer = client.get("/v1/models")
            assert (answer.status_code, answer.json()["reason"]) == (503, "REGISTRY_UNAVAILABLE")
            assert int(answer.headers["retry-after"]) >= 1
    finally:
        application.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/v1/models", trust_env=False)


def test_a_port_that_is_taken() -> None:
    """A port that is taken ends the start with a sentence, and leaves nothing behind."""
    first = Application(settings(), pool=InlinePool(lambda _: lambda batch, _: batch))
    first.start()
    try:
        assert first._api is not None
        port = first._api._listener.getsockname()[1]
        second = Application(settings(port=port), pool=InlinePool(lambda _: lambda batch, _: batch))
        with pytest.raises(FrontError, match=f"can't listen on 127.0.0.1:{port} for the HTTP API"):
            second.start()
    finally:
        first.stop()


def test_an_address_that_others_reach() -> None:
    """Without TLS it is for this machine alone, unless that is allowed."""
    with pytest.raises(ConfigError, match=r"api\.host"):
        settings(host="0.0.0.0")  # noqa: S104 - refused
