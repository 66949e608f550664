"""docs/security.md: its settings load, its commands work, its file of tokens is one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from prinz_enricher.config import Settings, TlsSettings
from prinz_enricher.security.certificates import CertificateFiles
from prinz_enricher.security.principal import Principals
from prinz_enricher.security.tokens import parse_tokens

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
SETTINGS = [block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[[token]]" not in block]
COMMANDS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SETTINGS)))
def test_settings(tmp_path: Path, number: int) -> None:
    """Each block of settings is a whole file."""
    file = tmp_path / "prinz.toml"
    file.write_text(SETTINGS[number])
    Settings.load(file=file, environment={})


def test_rules_of_a_variable() -> None:
    """The example of PRINZ_ACCESS is one."""
    found = re.search(r"PRINZ_ACCESS='(.*)'", PAGE)
    assert found
    variables = {"PRINZ_ACCESS": found[1], "PRINZ_AUTH__TOKENS_FILE": "tokens.toml"}
    assert Settings.load(environment=variables).access[0].methods == ("list",)


def test_commands(tmp_path: Path) -> None:
    """They make a certificate and a token, which are accepted."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for commands in COMMANDS:
        subprocess.run(["/bin/sh", "-e"], input=commands, text=True, cwd=tmp_path, env={"PATH": path}, check=True)
    CertificateFiles(TlsSettings(certificate=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key")))
    token = (tmp_path / "scenarios.token").read_text()
    content = (tmp_path / "tokens.toml").read_bytes()
    example = next(block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[[token]]" in block)
    for tokens in (content, example.encode()):
        assert [each.principal.name for each in parse_tokens("it", tokens, Principals()).values()] == ["scenarios"]
    assert token.strip().encode() not in content
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scenarios.token", "tls.crt", "tls.key", "tokens.toml"]
