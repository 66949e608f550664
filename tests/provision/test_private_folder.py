"""The private folders of workers."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from prinz_enricher.provision.file_lock import PrivateFolder, sweep_folders


def test_folders_of_killed_fronts_are_swept_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in use, a young one and one of someone else stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    script = (
        "import os; from prinz_enricher.provision.file_lock import PrivateFolder; "
        "print(PrivateFolder().path); os._exit(9)"
    )
    orphans = [
        Path(
            subprocess.run(
                [sys.executable, "-c", script],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=Path(__file__).parents[2],
                env={**os.environ, "TMPDIR": str(tmp_path)},
                check=False,
            ).stdout.strip()
        )
        for _ in range(2)
    ]
    mine = PrivateFolder()
    other = tmp_path / "prinz-worker-of-someone"
    other.mkdir()
    for old in (orphans[0], mine.path, other):
        os.utime(old, (1, 1))
    try:
        assert sweep_folders() == [orphans[0]]
        assert sorted(tmp_path.iterdir()) == sorted([orphans[1], mine.path, other])
    finally:
        mine.remove()
    assert not mine.path.exists()


def test_a_folder_is_for_this_user_alone() -> None:
    """A model's files are no one else's to read or change."""
    folder = PrivateFolder()
    try:
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    finally:
        folder.remove()
        folder.remove()
