"""What the product is made of: advisories and licences that `make audit` looks at, and the bill of materials."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.model.bom import Bom
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from prinz_enricher import __version__

ROOT = Path(__file__).resolve().parents[2]
POLICY = tomllib.loads((ROOT / "scripts" / "audit.toml").read_text())
ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "It does harm.",
    "affected": [
        {
            "package": {"name": "httpx", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "0.29.0"}]}],
        }
    ],
}


@contextmanager
def advisory_service(status: int = 200) -> Iterator[str]:
    """Run a service in the form of OSV that knows one advisory, on httpx and tokio; yields its URL."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = {"vulns": [ADVISORY]} if asked["package"]["name"] in {"httpx", "tokio"} else {}
            body = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def audit(
    folder: Path, osv_url: str, *requirements: str, crate: Path | None = None, **changes: dict[str, str] | list[str]
) -> subprocess.CompletedProcess[str]:
    """Run the audit of some requirements, and of a crate, by a policy with changes."""
    policy = POLICY | changes
    lines = [f"permissive = {json.dumps(policy.pop('permissive'))}"]
    for table, entries in policy.items():
        lines += [f"[{table}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in entries.items())]
    (folder / "policy.toml").write_text("\n".join(lines))
    (folder / "requirements.txt").write_text("\n".join(requirements))
    arguments = ["--osv-url", osv_url, "--policy", str(folder / "policy.toml")]
    arguments += ["--jvm-bill", str(folder / "bom.json"), "--crate", str(crate or folder)]
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "audit.py", *arguments, "--requirements", folder / "requirements.txt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def build_bill(folder: Path, **variables: str) -> Path:
    """Write the bill of materials into a folder."""
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "sbom.py", folder], check=True, capture_output=True, env=variables or None
    )
    return folder / f"prinz_enricher-{__version__}.cdx.json"


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the bill of materials."""
    read: dict[str, Any] = json.loads(build_bill(tmp_path_factory.mktemp("bill")).read_text())
    return read


@pytest.mark.slow
def test_an_advisory_that_is_found_fails(tmp_path: Path) -> None:
    """Package, version, advisory, alias and the version that mends it are told."""
    with advisory_service() as url:
        done = audit(tmp_path, url, "httpx==0.28.1", "idna==3.20")

    assert done.returncode == 1
    for word in ("httpx", "0.28.1", "PYSEC-2026-1", "CVE-2026-1", "0.29.0"):
        assert word in done.stdout
    assert "idna" not in done.stdout


@pytest.mark.slow
def test_an_ignored_advisory_passes_with_its_reason(tmp_path: Path) -> None:
    """It is ignored by its id or an alias, and the reason is told."""
    with advisory_service() as url:
        done = audit(tmp_path, url, "httpx==0.28.1", ignored={"CVE-2026-1": "no request of ours has that form"})

    # Nor are there faults in the licences of the product.
    assert done.returncode == 0, done.stdout
    assert "CVE-2026-1 is ignored: no request of ours has that form" in done.stdout
    assert "No known vulnerabilities found, 1 ignored" in done.stdout


@pytest.mark.slow
def test_where_advisories_cannot_be_asked_for(tmp_path: Path) -> None:
    """A service that is not there, or is out of order, is told in one line, and the audit passes."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/v1/query"
    gone = audit(tmp_path, nobody, "httpx==0.28.1")
    with advisory_service(status=503) as url:
        broken = audit(tmp_path, url, "httpx==0.28.1")

    assert (gone.returncode, broken.returncode) == (0, 0)
    assert gone.stdout.splitlines()[3:-1] == [f"advisories: skipped, {nobody} gave no answer: ConnectionError"]
    assert broken.stdout.splitlines()[3:-1] == [f"advisories: skipped, {url} gave no answer: HTTPError"]


@pytest.mark.slow
def test_the_rust_front(tmp_path: Path) -> None:
    """Advisories on its crates, and their licences, are faults too."""
    with advisory_service() as url:
        done = audit(tmp_path, url, "idna==3.20", crate=ROOT / "front")
        ignored = audit(tmp_path, url, "idna==3.20", crate=ROOT / "front", ignored={"CVE-2026-1": "not called"})
        closed = [one for one in POLICY["permissive"] if one not in {"MIT", "Apache-2.0", "Zlib"}]
        refused = audit(tmp_path, url, "idna==3.20", crate=ROOT / "front", permissive=closed)
    if "the Rust front is skipped" in done.stdout:
        pytest.skip("cargo is not installed, or has no crates")

    assert done.returncode == 1
    assert re.search(r"^crate:tokio \S+: PYSEC-2026-1, CVE-2026-1: It does harm.$", done.stdout, re.MULTILINE)
    assert ignored.returncode == 0, ignored.stdout
    assert re.search(r"^crate:h2 \S+: the licence MIT is not permissive", refused.stdout, re.MULTILINE)


@pytest.mark.slow
def test_what_cannot_be_audited_fails(tmp_path: Path) -> None:
    """A requirement without an exact version is a fault, although nothing is found."""
    with advisory_service() as url:
        done = audit(tmp_path, url, "httpx>=0.28")

    assert done.returncode == 1
    assert "httpx" in done.stdout


@pytest.mark.slow
def test_a_licence_that_is_not_allowed_fails(tmp_path: Path) -> None:
    """The package and its licence are told; of alternatives one is enough; an entry that nothing needs is a fault."""
    permissive = [licence for licence in POLICY["permissive"] if licence not in {"MIT", "BSD-2-Clause"}]
    exceptions = POLICY["exceptions"] | {"idna": "no reason"}
    components = [
        {"group": "org.one", "name": name, "version": "1.0", "licenses": [{"license": one} for one in licences]}
        for name, licences in {
            "closed": [{"name": "Ask us"}],
            "dual": [{"id": "GPL-3.0-only"}, {"id": "Apache-2.0"}],
            "none": [],
        }.items()
    ]
    (tmp_path / "bom.json").write_text(json.dumps({"components": components}))
    with advisory_service() as url:
        done = audit(tmp_path, url, "idna==3.20", permissive=permissive, exceptions=exceptions)

    assert done.returncode == 1
    assert re.search(r"^pydantic \S+: the licence MIT is not permissive", done.stdout, re.MULTILINE)
    assert re.search(r"^aiohttp \S+: the licence Apache-2.0 AND MIT is not", done.stdout, re.MULTILINE)
    assert not re.search(r"^(structlog|packaging|certifi)\b", done.stdout, re.MULTILINE)
    assert "org.one:closed 1.0: the licence LicenseRef-Ask-us is not" in done.stdout
    assert "org.one:none 1.0: the licence (none is named) is not" in done.stdout
    assert "org.one:dual" not in done.stdout
    assert "idna: scripts/audit.toml needs no entry for it; remove it" in done.stdout


def test_what_is_let_through_has_a_reason() -> None:
    """Each exception and each ignored advisory says why in a few words."""
    reasons = [*POLICY["exceptions"].values(), *POLICY["ignored"].values()]

    assert all(len(reason.split()) >= 3 for reason in reasons), reasons


@pytest.mark.slow
def test_bill_names_all_that_the_wheel_requires(tmp_path: Path) -> None:
    """Each requirement of the wheel is in the bill, and all that those require, at the versions of constraints.txt."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"prinz_enricher-{__version__}.dist-info/METADATA").decode()
    wanted = [Requirement(text) for text in Parser().parsestr(metadata).get_all("Requires-Dist", [])]
    here = {canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": "s3"})}
    bill = json.loads(build_bill(tmp_path).read_text())
    versions = {one["name"]: one["version"] for one in bill["components"]}
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)

    assert {"grpcio", "mlflow", "boto3"} <= here <= versions.keys()
    assert versions.items() <= {canonicalize_name(name): version for name, version in pins}.items()
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        "prinz-enricher",
        __version__,
    )


def test_bill_has_no_tool_of_development(bill: dict[str, Any]) -> None:
    """What only developers install is not in it, and what only an extra brings is optional."""
    scopes = {one["name"]: one["scope"] for one in bill["components"]}

    assert not scopes.keys() & {"pytest", "ruff", "mypy", "hypothesis", "moto", "flask-wtf", "pip-audit"}
    assert (scopes["boto3"], scopes["s3transfer"], scopes["grpcio"]) == ("optional", "optional", "required")
    assert all(one["licenses"] for one in bill["components"])


def test_bill_says_who_requires_whom(bill: dict[str, Any]) -> None:
    """Each component is required by another, and each that is required is a component."""
    required = {ref for one in bill["dependencies"] for ref in one.get("dependsOn", [])}

    assert required == {one["bom-ref"] for one in bill["components"]}
    assert len(Bom.from_json(bill).components) == len(bill["components"])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_bill_is_reproducible(tmp_path: Path, bill: dict[str, Any]) -> None:
    """It has the same bytes each time, whatever the hashes of Python are; no time and no number by chance."""
    (tmp_path / "other").mkdir()
    one = build_bill(tmp_path, PYTHONHASHSEED="1").read_bytes()

    assert build_bill(tmp_path / "other", PYTHONHASHSEED="2").read_bytes() == one
    assert not {"serialNumber"} & bill.keys()
    assert "timestamp" not in bill["metadata"]
