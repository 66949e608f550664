"""Writes wheels of a line of code each, so that what is installed needs no package index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def write_wheel(folder: Path, name: str, version: str, *, code: str = "", metadata: str = "") -> str:
    """Write a wheel with one module; returns the SHA-256 of its file.

    Args:
        folder: Where it goes; made where it is not there.
        name: The name of the package, and of its module.
        version: Its version.
        code: What the module says.
        metadata: More lines of its METADATA.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(zipfile.ZipInfo(file), content)
    return hashlib.sha256(path.read_bytes()).hexdigest()
