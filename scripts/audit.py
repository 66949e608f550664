"""Look for known vulnerabilities in constraints.txt and the Rust front, and for licences that are not allowed.

Vulnerabilities are those that osv.dev lists; where it can't be reached, this is printed, and is not a failure. Licences
are those of the packages of the product, of its JVM client where Maven has built it, and of the Rust front where cargo
is; scripts/audit.toml says which are allowed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx
from license_expression import Licensing
from product_packages import ROOT, Package, product_packages

UNREACHABLE = re.compile(r"requests\.exceptions\.(\w+)|Could not connect")
"""What pip-audit prints where the service gave no readable answer; its exit code is the same as for a finding."""


def main() -> None:
    """Look for both; the exit code is 1 where something is found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--osv-url", default="https://api.osv.dev/v1/query", help="where advisories are asked for")
    parser.add_argument("--policy", type=Path, default=ROOT / "scripts/audit.toml", help="what is allowed")
    parser.add_argument("--requirements", type=Path, default=ROOT / "constraints.txt", help="versions to look up")
    parser.add_argument("--jvm-bill", type=Path, default=ROOT / "nussknacker/client/target/bom.json", help="by Maven")
    parser.add_argument("--crate", type=Path, default=ROOT / "front", help="folder of the Rust front")
    arguments = parser.parse_args()
    policy = tomllib.loads(arguments.policy.read_text())
    crates = crate_packages(arguments.crate)
    faults = licence_faults(policy, {**jvm_packages(arguments.jvm_bill), **crates})
    faults += advisory_faults(arguments.requirements, policy["ignored"], arguments.osv_url)
    faults += crate_advisory_faults(crates.values(), policy["ignored"], arguments.osv_url)
    print("\n".join(faults), end="\n" if faults else "")
    sys.exit(1 if faults else 0)


def licence_faults(policy: Mapping[str, Any], others: Mapping[str, Package]) -> list[str]:
    """Return a sentence for each package whose licence is not allowed, and for each entry that nothing needs.

    `others` are packages besides those of Python.
    """
    packages = {**product_packages(policy["licences"]), **others}
    licensing = Licensing()
    verdicts = {True: licensing.TRUE, False: licensing.FALSE}
    unwanted = set()
    for name, package in packages.items():
        licence = licensing.parse(package.licence or "LicenseRef-none")
        allowed = {one: verdicts[str(one) in policy["permissive"]] for one in licence.symbols}
        if licence.subs(allowed, simplify=True) != licensing.TRUE:
            unwanted.add(name)
    print(f"licences: {len(packages)} packages, {len(unwanted)} not permissive", flush=True)
    faults = [
        f"{name} {packages[name].version}: the licence {packages[name].licence or '(none is named)'} is not permissive"
        "; use another package, or give in scripts/audit.toml the reason why it is allowed"
        for name in sorted(unwanted - policy["exceptions"].keys())
    ]
    unneeded = (policy["exceptions"].keys() - unwanted) | (policy["licences"].keys() - packages.keys())
    # Packages of the JVM client and the Rust front are known only where these can be built.
    unneeded = {name for name in unneeded if ":" not in name}
    return faults + [f"{name}: scripts/audit.toml needs no entry for it; remove it" for name in sorted(unneeded)]


def jvm_packages(jvm_bill: Path) -> dict[str, Package]:
    """Return what the JVM client runs with, by `group:name`; nothing where it was not built."""
    if not jvm_bill.exists():
        print("licences: those of the JVM client are skipped, make test-nussknacker has not built it here")
        return {}
    found = {}
    for one in json.loads(jvm_bill.read_text())["components"]:
        named = [entry.get("license", {}) for entry in one.get("licenses", [])]
        ids = [entry.get("id") or "LicenseRef-" + re.sub(r"\W+", "-", entry.get("name", "unknown")) for entry in named]
        name = f"{one['group']}:{one['name']}"
        # Of several licences in a POM the user chooses one.
        found[name] = Package(name, one["version"], " OR ".join(ids))
    return found


def crate_packages(folder: Path) -> dict[str, Package]:
    """Return what the Rust front is built of on Linux, by `crate:name`; nothing without cargo or its crates."""
    cargo = shutil.which("cargo")
    command = [str(cargo), "metadata", "--format-version", "1", "--all-features", "--quiet"]
    command += ["--filter-platform", "x86_64-unknown-linux-gnu", "--manifest-path", str(folder / "Cargo.toml")]
    done = None if cargo is None else subprocess.run(command, capture_output=True, text=True, check=False)
    if done is None or done.returncode:
        print("audit: the Rust front is skipped, cargo is not here or has no crates")
        return {}
    told = json.loads(done.stdout)
    requires = {
        node["id"]: [one["pkg"] for one in node["deps"] if any(kind["kind"] is None for kind in one["dep_kinds"])]
        for node in told["resolve"]["nodes"]
    }
    todo, needed = [told["resolve"]["root"]], set()
    while todo:
        needed.add(one := todo.pop())
        todo += [other for other in requires[one] if other not in needed]
    return {
        f"crate:{one['name']}": Package(
            f"crate:{one['name']}", one["version"], re.sub(" ?/ ?", " OR ", one["license"] or "")
        )
        for one in told["packages"]
        if one["id"] in needed
    }


def crate_advisory_faults(crates: Iterable[Package], ignored: Mapping[str, str], osv_url: str) -> list[str]:
    """Return a sentence for each advisory on a crate; empty where there is none, or nobody could be asked."""
    faults: list[str] = []
    asked = 0
    for crate in crates:
        name = crate.name.removeprefix("crate:")
        question = {"version": crate.version, "package": {"name": name, "ecosystem": "crates.io"}}
        try:
            found = httpx.post(osv_url, json=question, timeout=10).raise_for_status().json().get("vulns", [])
        except (httpx.HTTPError, ValueError) as error:
            print(f"advisories: those of crates are skipped, {osv_url} gave no answer: {type(error).__name__}")
            return faults
        asked += 1
        for one in found:
            names = [one["id"], *one.get("aliases", [])]
            if not ignored.keys() & set(names):
                faults.append(f"{crate.name} {crate.version}: {', '.join(names)}: {one.get('summary', '')}")
    print(f"advisories: {len(faults)} on {asked} crates")
    return faults


def advisory_faults(requirements: Path, ignored: Mapping[str, str], osv_url: str) -> list[str]:
    """Return what pip-audit found; empty where it found nothing, or could not ask."""
    program = Path(sysconfig.get_path("scripts")) / "pip-audit"
    command = [str(program), "--requirement", str(requirements), "--no-deps", "--disable-pip", "--aliases", "on"]
    command += ["--vulnerability-service", "osv", "--osv-url", osv_url, "--progress-spinner", "off", "--timeout", "10"]
    for advisory, reason in ignored.items():
        print(f"advisories: {advisory} is ignored: {reason}")
        command += ["--ignore-vuln", advisory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    unreachable = UNREACHABLE.search(done.stderr)
    if done.returncode and not done.stdout and unreachable:
        print(f"advisories: skipped, {osv_url} gave no answer: {unreachable[1] or unreachable[0]}", flush=True)
        return []
    print(f"advisories: {done.stderr.strip().splitlines()[-1]}", flush=True)
    return [done.stdout or done.stderr] if done.returncode else []


if __name__ == "__main__":
    main()
