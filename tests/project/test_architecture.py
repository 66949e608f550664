"""docs/architecture.md: the walk of a call through the code names what is there, in at most 25 steps."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PACKAGE = ROOT / "prinz_enricher"
STEPS = re.findall(r"^(\d+)\. `([\w/]+\.py)` `([\w.]+)`: \S", PAGE, flags=re.MULTILINE)


def names_of(file: Path) -> set[str]:
    """Return the functions of a module, and the methods of its classes as `Class.method`."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def test_the_walk_names_what_is_there() -> None:
    """Each step is a function of a module of the product; they are numbered, and no more than 25."""
    missing = [(file, name) for _, file, name in STEPS if name not in names_of(PACKAGE / file)]

    assert missing == []
    assert [int(number) for number, _, _ in STEPS] == list(range(1, len(STEPS) + 1))
    assert 10 <= len(STEPS) <= 25
    assert len(re.findall(r"^\d+\. ", PAGE, flags=re.MULTILINE)) == len(STEPS)


def test_the_walk_is_from_socket_to_worker_and_back() -> None:
    """It begins and ends at a front, and is in the worker in between."""
    folders = [file.partition("/")[0] for _, file, _ in STEPS]

    assert folders[0] == folders[-1] == "fronts"
    assert "worker" in folders


def test_the_page_has_every_folder() -> None:
    """The table of folders has each package of the product, and no other."""
    rows = set(re.findall(r"^\| `(\w+)/`", PAGE, flags=re.MULTILINE))

    assert rows == {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
