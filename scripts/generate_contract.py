"""Generate `prinz_enricher/contract/` from `proto/`, or check that it is fresh.

protoc names the modules by the proto package (`prinz.enricher.v1`); they are moved into `prinz_enricher.contract`, so
that the package has one name of its own at the top of `sys.path`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import google.rpc.status_pb2
import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PACKAGE = Path("prinz/enricher/v1")
CONTRACT = ROOT / "prinz_enricher" / "contract"
# The folders that hold google/protobuf/*.proto and google/rpc/*.proto.
INCLUDES = (Path(grpc_tools.__file__).parent / "_proto", Path(google.rpc.status_pb2.__file__).parents[2])


def run_protoc(*arguments: str) -> None:
    """Run protoc on every file of the contract; raises `SystemExit` with its own message where it fails."""
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / PACKAGE).glob("*.proto"))
    includes = [f"-I{path}" for path in (PROTO, *INCLUDES)]
    if code := protoc.main(["protoc", *includes, *arguments, *sources]):
        raise SystemExit(code)


def write_image(path: Path) -> None:
    """Write the contract and what it imports as one descriptor set, which buf lints and compares."""
    run_protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={path}")


def generate() -> dict[str, str]:
    """Return the text of each generated module by its file name."""
    with tempfile.TemporaryDirectory() as folder:
        run_protoc(f"--python_out={folder}", f"--pyi_out={folder}", f"--grpc_python_out={folder}")
        modules = {path.name: path.read_text() for path in (Path(folder) / PACKAGE).glob("*_pb2*")}
    # A file without a service gets a stub module with nothing in it.
    modules = {name: text for name, text in modules.items() if not name.endswith("_grpc.py") or "class " in text}
    dotted = ".".join(PACKAGE.parts)
    return {
        name: re.sub(
            rf"^from {re.escape(dotted)} import", "from prinz_enricher.contract import", text, flags=re.MULTILINE
        )
        for name, text in modules.items()
    }


def stale(modules: dict[str, str]) -> list[str]:
    """Return the names of modules that are missing, different or no longer generated."""
    there = {path.name: path.read_text() for path in CONTRACT.glob("*_pb2*") if path.is_file()}
    return sorted(name for name in there.keys() | modules.keys() if there.get(name) != modules.get(name))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a module is not fresh")
    parser.add_argument("--image", type=Path, help="only write the contract's descriptor set to this file")
    arguments = parser.parse_args()
    if arguments.image:
        write_image(arguments.image)
        return
    modules = generate()
    changed = stale(modules)
    if arguments.check:
        if changed:
            sys.exit(f"not fresh, run `make proto`: {', '.join(changed)}")
        return
    for name in changed:
        path = CONTRACT / name
        if name in modules:
            path.write_text(modules[name])
        else:
            path.unlink()
    print(f"{len(changed)} of {len(modules)} modules changed in {CONTRACT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
