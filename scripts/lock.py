"""Write constraints.txt: the newest versions of everything that pyproject.toml asks for, directly or not."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Install into a new environment, and write down what came."""
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        subprocess.run(["python3", "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        wanted = [".[s3,otel]", "--group", "dev", "--group", "environment"]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, cwd=ROOT)
        frozen = subprocess.run(
            [python, "-m", "pip", "freeze", "--exclude", "prinz-enricher"], check=True, capture_output=True, text=True
        ).stdout
    header = "# Versions that the tests run with; written by `make lock`.\n"
    (ROOT / "constraints.txt").write_text(header + frozen)


if __name__ == "__main__":
    main()
