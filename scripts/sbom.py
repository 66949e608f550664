"""Write the bill of materials of the wheel, in CycloneDX's JSON, into a folder: `make wheel`.

It has what the wheel runs with on this Python and this machine, at the versions of constraints.txt, with licences and
who requires whom; what only an extra brings is optional. The same packages give the same bytes.
"""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from product_packages import PRODUCT, ROOT, product_packages

from prinz_enricher import __version__


def main() -> None:
    """Write it into the folder that the argument names."""
    licences = tomllib.loads((ROOT / "scripts" / "audit.toml").read_text())["licences"]
    packages = product_packages(licences)
    required = product_packages(licences, extras=()).keys()
    # The wheel's; an editable installation keeps the version that it was made with.
    packages[PRODUCT] = replace(packages[PRODUCT], version=__version__)
    components = {}
    for name, package in packages.items():
        purl = PackageURL("pypi", name=name, version=package.version)
        components[name] = Component(
            name=name,
            version=package.version,
            bom_ref=str(purl),
            purl=purl,
            scope=ComponentScope.REQUIRED if name in required else ComponentScope.OPTIONAL,
            licenses=[LicenseExpression(package.licence)] if package.licence else [],
        )
    bill = Bom(components=[one for name, one in components.items() if name != PRODUCT])
    bill.metadata.component = components[PRODUCT]
    for name, package in packages.items():
        bill.register_dependency(components[name], [components[other] for other in package.requires])
    written = json.loads(make_outputter(bill, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string())
    # They differ with each run.
    del written["serialNumber"], written["metadata"]["timestamp"]
    path = Path(sys.argv[1]) / f"prinz_enricher-{__version__}.cdx.json"
    path.write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    print(f"{path}: {len(packages) - 1} packages")


if __name__ == "__main__":
    main()
