"""`prinz-enricher check` in this process."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner

from prinz_enricher.cli import group

_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "command-line.md").read_text()
_ROWS = _PAGE.partition("| what | checked |")[2].partition("\n\n")[0].splitlines()
DOCUMENTED = {what for row in _ROWS for what in re.findall(r"`(\w+)`", row.split("|")[1])}
"""What a finding may be about, by the table of the docs."""


@dataclass(frozen=True)
class Checked:
    """What the command found: its exit code; level, what, where and message of each finding; all that it printed."""

    code: int
    findings: list[tuple[str, str, str, str]]
    printed: str

    def messages(self, what: str, level: str | None = None) -> list[str]:
        """Return the messages on something, of one level or of any."""
        return [message for found, of, _, message in self.findings if of == what and level in (None, found)]

    @property
    def failures(self) -> list[tuple[str, str]]:
        """What fails, and how."""
        return [(what, message) for level, what, _, message in self.findings if level == "FAIL"]


class RunCheck(Protocol):
    """Runs the command with settings by section, and flags."""

    def __call__(self, *flags: str, **sections: Any) -> Checked: ...  # noqa: D102 - said above


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunCheck:
    """Run the command with a file of settings, and a free port unless they name one."""
    # The logs of other tests go their own way.
    monkeypatch.setattr("prinz_enricher.cli.check.configure_logging", lambda *_: None)

    def run(*flags: str, **sections: Any) -> Checked:
        file = tmp_path / "prinz.toml"
        settings = {**sections, "server": {"port": 0, **sections.get("server", {})}}
        file.write_text("".join(f"{key} = {inline(value)}\n" for key, value in settings.items()))
        done = CliRunner().invoke(group, ["check", "--config", str(file), "--json", *flags])
        assert done.exit_code in (0, 1), done.output
        # Before it are logs, which a process of its own writes to standard error.
        found = json.loads(done.stdout.splitlines()[-1])
        assert found.keys() == {"ok", "checks"}
        assert all(one.keys() == {"level", "what", "where", "message"} for one in found["checks"])
        assert {one["level"] for one in found["checks"]} <= {"ok", "warn", "FAIL"}
        assert {one["what"] for one in found["checks"]} <= DOCUMENTED
        findings = [tuple(one[key] for key in ("level", "what", "where", "message")) for one in found["checks"]]
        assert found["ok"] == (done.exit_code == 0) == all(level != "FAIL" for level, *_ in findings)
        return Checked(done.exit_code, findings, done.output)

    return run


def inline(value: Any) -> str:
    """Return a value in TOML, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)
