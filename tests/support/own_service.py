"""A service of a test's own, over a registry with models that the test registers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from prinz_enricher.application import Application
from prinz_enricher.config import Settings
from tests.support.running_service import Service
from tests.support.script import run_script


def register(registry: str, script: str, folder: Path, *arguments: str, python: Path | None = None) -> None:
    """Run a script that registers models, in a process of its own: this one stands for the front.

    Args:
        registry: The registry's URL: the script's first argument.
        script: Python code.
        folder: Its working directory.
        arguments: More arguments.
        python: Its interpreter; this one by default.
    """
    if python is None:
        run_script(script, registry, *arguments, folder=folder)
        return
    variables = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    done = subprocess.run(
        [python, "-c", script, registry, *arguments],
        cwd=folder,
        env={**variables, "MLFLOW_DISABLE_TELEMETRY": "true"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@contextmanager
def own_service(url: str, **sections: Mapping[str, object]) -> Iterator[Service]:
    """Run a service in this process.

    Args:
        url: The registry's URL.
        sections: Settings by section, over those that suit a test.
    """
    settings = Settings.load(
        {
            **sections,
            "registry": {"url": url, "refresh_interval": 0.2, **sections.get("registry", {})},
            "server": {"port": 0, "grace_period": 5.0, **sections.get("server", {})},
            # Not what an earlier test had in use; and on a busy machine a call waits, instead of being OVERLOADED.
            "scoring": {"preload": [], "max_wait": 60.0, **sections.get("scoring", {})},
        },
        environment={},
    )
    # With its first list pyarrow imports pandas, where the command line does not keep it out: for seconds, in which the
    # service would read no calls.
    pa.array([0])
    application = Application(settings)
    port = application.start()
    try:
        assert application.ready.wait(30)
        yield Service(application, f"127.0.0.1:{port}", url)
    finally:
        application.stop()
