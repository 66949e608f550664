"""docs/logging.md has the events that the service logs."""

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from prinz_enricher.telemetry.request_log import LEVELS

ROOT = Path(__file__).resolve().parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef
METHODS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


def logged(module: ast.Module) -> Iterator[tuple[ast.expr, str, Function]]:
    """Yield the event of each line that a module logs, its level, and the function it is in."""
    for function in ast.walk(module):
        if not isinstance(function, Function):
            continue
        for node in ast.walk(function):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in METHODS
                and re.fullmatch(r"(.*\.)?_?log", ast.unparse(node.func.value))
            ):
                yield node.args[0], METHODS[node.func.attr], function


def events_of(event: ast.expr, function: Function, modules: list[ast.Module]) -> set[str]:
    """Return the events that an expression of a function may stand for."""
    if isinstance(event, ast.Constant):
        return {str(event.value)}
    if isinstance(event, ast.IfExp):
        return events_of(event.body, function, modules) | events_of(event.orelse, function, modules)
    if isinstance(event, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in event.values]
        return {"".join(parts)}
    assert isinstance(event, ast.Name), ast.unparse(event)
    names = [argument.arg for argument in function.args.args]
    if event.id in names:
        # What callers pass, by a thread too, or the default.
        place = names.index(event.id)
        defaults = (
            function.args.defaults[place - len(names) :] if place >= len(names) - len(function.args.defaults) else []
        )
        found = {str(default.value) for default in defaults if isinstance(default, ast.Constant)}
        for module in modules:
            for node in ast.walk(module):
                if isinstance(node, ast.Call):
                    given = _arguments(node, function.name)
                    if len(given) > place:
                        found |= events_of(given[place], function, modules)
        return found
    values = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == event.id
    ]
    return set().union(*(events_of(value, function, modules) for value in values))


def _arguments(node: ast.Call, target: str) -> list[ast.expr]:
    """Return what a call passes to a function, or a thread that it makes will."""
    if isinstance(node.func, ast.Name) and node.func.id == target:
        return node.args
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    arguments, called = given.get("args"), given.get("target")
    if isinstance(called, ast.Name) and called.id == target and isinstance(arguments, ast.Tuple):
        return arguments.elts
    return []


def test_every_event_is_documented() -> None:
    """The page has a row for each event that the code logs, with its level, and for no other."""
    modules = [ast.parse(path.read_text()) for path in (ROOT / "prinz_enricher").rglob("*.py")]
    found = {(event, logging.getLevelName(level).lower()) for event, level in LEVELS.items()}
    for module in modules:
        for expression, level, function in logged(module):
            found |= {(event, level) for event in events_of(expression, function, modules)}

    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| ", (ROOT / "docs" / "logging.md").read_text(), flags=re.MULTILINE)

    assert sorted(rows) == sorted(found)
    assert len(rows) > 70
