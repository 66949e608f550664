"""The house: what may import what, how long a module is, what is public."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prinz_enricher
import prinz_enricher.client
from prinz_enricher.cli import COMMANDS
from prinz_enricher.errors import EnricherError

ROOT = Path(__file__).resolve().parents[2]


def subclasses(kind: type[EnricherError]) -> set[type[EnricherError]]:
    """Return an error and all that are derived from it."""
    derived = (subclasses(sub) for sub in kind.__subclasses__())
    return {kind}.union(*derived)


@pytest.mark.parametrize("command", COMMANDS)
def test_front_knows_no_ml_library(command: str) -> None:
    """Each command's imports bring in neither mlflow nor pandas nor sklearn."""
    program = f"""
import sys
from prinz_enricher.cli import main
sys.argv = ["prinz-enricher", {command!r}, "--help"]
try:
    main()
except SystemExit as end:
    assert end.code == 0
assert "prinz_enricher.cli.{COMMANDS[command][0]}" in sys.modules
found = sorted(name for name in ("mlflow", "pandas", "sklearn", "scipy") if sys.modules.get(name))
sys.exit(f"imported: {{found}}" if found else 0)
"""

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)

    assert result.returncode == 0, result.stderr


def test_modules_are_short() -> None:
    """No module is over 600 lines."""
    modules = [
        path
        for folder in ("prinz_enricher", "samples", "scripts", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if "_pb2" not in path.name
    ]
    modules += (ROOT / "nussknacker").glob("*/src/**/*.java")
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in modules}

    assert {path: n for path, n in lengths.items() if n > 600} == {}
    assert len(lengths) > 40


def test_public_names() -> None:
    """What is public is said in `__all__`, sorted, and is there."""
    for module in (prinz_enricher, prinz_enricher.client):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_every_reason_is_documented() -> None:
    """docs/errors.md has a row for each reason, with its code, and for no other."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    errors = subclasses(EnricherError)
    leaves = {(error.reason, error.code.name) for error in errors if error.reason != "INTERNAL" or error.code == 13}

    assert sorted(rows) == sorted(leaves)


def test_client_distribution_is_complete(tmp_path: Path) -> None:
    """The client's wheel imports and works with nothing else of the project beside it."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path],
        check=True, capture_output=True, cwd=ROOT / "packaging" / "client",
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    program = f"""
import sys
sys.path.insert(0, {str(wheel)!r})
import prinz_enricher.client
assert prinz_enricher.__file__.startswith({str(wheel)!r})
found = sorted({{"mlflow", "httpx", "pandas", "pydantic", "yaml", "structlog"}} & sys.modules.keys())
sys.exit(f"imported: {{found}}" if found else 0)
"""

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert result.returncode == 0, result.stderr


def test_no_name_twice() -> None:
    """No two modules, and no two public classes, have one name: whoever reads one must not think of the other."""
    modules: dict[str, list[str]] = {}
    classes: dict[str, list[str]] = {}
    for path in (ROOT / "prinz_enricher").rglob("*.py"):
        where = str(path.relative_to(ROOT))
        if "_pb2" in path.name:
            continue
        if not path.name.startswith("__"):
            modules.setdefault(path.stem, []).append(where)
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes.setdefault(node.name, []).append(where)

    assert {name: where for name, where in modules.items() if len(where) > 1} == {}
    assert {name: where for name, where in classes.items() if len(where) > 1} == {}


def test_the_house_is_small() -> None:
    """The product has at most 42,690 lines in 235 modules: what is to be added goes where something can be left out."""
    modules = [path for path in (ROOT / "prinz_enricher").rglob("*.py") if "_pb2" not in path.name]

    assert len(modules) <= 235
    assert sum(len(path.read_text().splitlines()) for path in modules) <= 42_690
