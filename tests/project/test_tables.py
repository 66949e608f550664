"""What the command line's tables say."""

import pytest

from prinz_enricher.cli.describe import print_models
from prinz_enricher.contract import model_pb2


def test_a_version_that_is_scored_elsewhere_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """The list of models says of a version that a model server elsewhere scores it."""
    model = model_pb2.Model(name="wine")
    model.versions.add(version="1", route=model_pb2.ModelVersion.ROUTE_LOCAL)
    model.versions.add(version="2", route=model_pb2.ModelVersion.ROUTE_REMOTE)

    print_models([model])

    rows = [line for line in capsys.readouterr().out.splitlines() if "wine" in line]
    assert ["elsewhere" in row for row in rows] == [False, True]


def test_what_a_program_reads_is_not_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there are so many columns, a long name is folded; without a terminal it stands in its line, whole."""
    model = model_pb2.Model(name="churn-" * 30)
    model.versions.add(version="1")

    monkeypatch.setenv("COLUMNS", "60")
    print_models([model])
    assert model.name not in capsys.readouterr().out

    monkeypatch.delenv("COLUMNS")
    print_models([model])
    assert model.name in capsys.readouterr().out
