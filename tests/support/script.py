"""Scripts that use MLflow, each in a process of its own that has imported it already: tests stand for the front."""

from __future__ import annotations

import atexit
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path

from prinz_enricher.provision.child_process import ForkServer, can_fork, run_program

_ROOT = Path(__file__).parents[2]
_IMPORTS = ("mlflow.pyfunc", "mlflow.sklearn", "mlflow.models", "sklearn.linear_model", "sklearn.ensemble", "skops.io")


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    # MLflow keeps in the environment which registry it last spoke to in this process.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    return {**kept, "PYTHONPATH": str(_ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", **variables}


_SERVER = ForkServer("tests", _IMPORTS, lambda _: _environment({}))
atexit.register(_SERVER.close)


def run_script(
    script: str, *arguments: str, folder: Path | None = None, variables: Mapping[str, str] | None = None
) -> str:
    """Run Python code as a program.

    Args:
        script: The code.
        arguments: Of its command line.
        folder: Its working directory.
        variables: More environment variables.

    Returns:
        What it prints.
    """
    ended = run_program(
        [sys.executable, "-P", "-m", "tests.support.script", *arguments],
        _environment(variables or {}),
        folder or _ROOT,
        what="script",
        input=script.encode() + b"\0",
        server=_SERVER if can_fork() else None,
        timeout=110,
        cancelled=lambda: False,
    )
    assert ended.code == 0, "\n".join(ended.errors)
    return ended.output.decode()


def main() -> None:
    """Run the script that comes on standard input, up to a NUL, as the main module."""
    script = b""
    while not script.endswith(b"\0"):
        script += os.read(0, 65536)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(script[:-1], "<script>", "exec"), module.__dict__)  # noqa: S102 - it is the test's own


if __name__ == "__main__":
    main()
