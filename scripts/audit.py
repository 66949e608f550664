"""Look for known vulnerabilities in constraints.txt, and for licences that scripts/audit.toml does not allow.

Vulnerabilities are those that osv.dev lists; where it can't be reached, this is printed, and is not a failure. Licences
are those of the packages of the product, and of its JVM client where Maven has built it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    arguments = parser.parse_args()
    policy = tomllib.loads(arguments.policy.read_text())
    faults = licence_faults(policy, arguments.jvm_bill)
    faults += advisory_faults(arguments.requirements, policy["ignored"], arguments.osv_url)
    print("\n".join(faults), end="\n" if faults else "")
    sys.exit(1 if faults else 0)


def licence_faults(policy: Mapping[str, Any], jvm_bill: Path) -> list[str]:
    """Return a sentence for each package whose licence is not allowed, and for each entry that nothing needs."""
    packages = {**product_packages(policy["licences"]), **jvm_packages(jvm_bill)}
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
    # Packages of the JVM client are known only after a build.
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
