"""The pools that run the scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.ports import Provisions, WorkerPool
from tests.scoring.scripted import FAST, MODEL, SAVE, Call, scripted
from tests.support.inline_pool import InlinePool
from tests.support.script import run_script


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the scripted model with MLflow, in a process of its own: this one stands for the front."""
    folder = tmp_path_factory.mktemp("scripted")
    code = folder / "scripted_model.py"
    code.write_text(MODEL)
    run_script(SAVE, str(folder / "model"), str(code), folder=folder)
    return folder / "model"


@pytest.fixture(params=[False, True], ids=["queued", "lone"])
def lone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a test with jobs of which others are about to come, and with lone ones, which an idle worker gets at once."""
    monkeypatch.setattr(Call, "lone", request.param)
    return bool(request.param)


@pytest.fixture(scope="module", params=["inline", "process", "process-lone"])
def pool(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    """A pool of each kind, shared by the tests of a module that leave it usable; one gets lone jobs alone."""
    made: WorkerPool
    if request.param == "inline":
        made = InlinePool(lambda _: scripted, FAST)
    else:
        folder = request.getfixturevalue("model_folder")
        made = ProcessPool(lambda _target, _cancelled: Provisions(folder), FAST)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Call, "lone", request.param == "process-lone")
            yield made
    finally:
        made.close(5.0)
