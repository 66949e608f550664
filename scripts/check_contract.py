"""Lint the contract, and compare it with the one last released, by buf.

buf would fetch google/rpc/status.proto from its own registry; it is given a descriptor set made by protoc instead,
which holds everything. `proto/released.binpb` is the descriptor set of the last release: what it has must stay.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from generate_contract import ROOT, write_image

RELEASED = ROOT / "proto" / "released.binpb"


def main() -> None:
    """Run the command line; `--release` makes the contract as it is the one to compare with."""
    buf = Path(sysconfig.get_path("scripts")) / "buf"
    config = ("--config", str(ROOT / "buf.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "contract.binpb"
        write_image(image)
        codes = [subprocess.run([buf, "lint", image, *config], check=False).returncode]
        codes.append(subprocess.run([buf, "breaking", image, "--against", RELEASED, *config], check=False).returncode)
        if "--release" in sys.argv[1:] and not codes[0]:
            RELEASED.write_bytes(image.read_bytes())
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
