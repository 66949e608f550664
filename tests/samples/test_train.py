"""The sample models, trained without a registry, and as they are registered."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from prinz_enricher.catalog import Catalog
from prinz_enricher.registry import RegistryClient
from prinz_enricher.signature import Origin, Scalar, Signature
from tests.conftest import ROOT, RunningRegistry

WINE_COLUMNS = [
    "fixed acidity", "volatile acidity", "citric acid", "residual sugar", "chlorides", "free sulfur dioxide",
    "total sulfur dioxide", "density", "pH", "sulphates", "alcohol",
]  # fmt: skip


def test_wine_is_like_the_published_set() -> None:
    """The wines made in the code are always the same, and plausible."""
    from samples import wine

    data = wine.make_wine()
    assert data.equals(wine.make_wine())
    assert list(data) == [*WINE_COLUMNS, "quality"]
    assert len(data) == 1599
    assert set(data["quality"]) <= set(range(3, 9))
    assert 0.3 < data["alcohol"].corr(data["quality"]) < 0.6


def test_wine_models_differ() -> None:
    """The two penalties give two models."""
    import pandas as pd

    from samples import wine

    data = wine.make_wine()
    row = pd.DataFrame([dict.fromkeys(WINE_COLUMNS, 0.235)])
    first, second = (wine.train_wine(data, alpha).predict(row)[0] for alpha in (0.42, 0.84))
    assert np.isfinite([first, second]).all()
    assert first != second


def test_fraud_is_rare_and_found() -> None:
    """A fraud is rare, and the model tells a likely one from others, by whole numbers that fit into 32 bits."""
    import pandas as pd

    from samples import fraud

    data = fraud.make_fraud()
    assert data.equals(fraud.make_fraud())
    assert 0.005 < data["fraud"].mean() < 0.03
    model = fraud.train_fraud(data)
    rows = [
        ("4", "F", "es_transportation", 800.0),
        ("2", "M", "es_transportation", 26.0),
        ("3", "F", "es_travel", 9000.0),
        ("9", "X", "es_unheard_of", float("nan")),
    ]
    answers = model.predict(pd.DataFrame(rows, columns=list(fraud.COLUMNS)))
    assert answers.dtype == np.int64
    assert set(answers) <= {0, 1}
    assert list(answers[1:3]) == [0, 1]


@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_csv_files_of_any_separator(tmp_path: Path, separator: str) -> None:
    """The separator is found out, and single quotes around texts are not part of them."""
    from samples import fraud

    header = ["step", "age", "gender", "category", "amount", "fraud"]
    rows = [["0", "'4'", "'M'", "'es_food'", "4.55", "0"], ["0", "'U'", "'E'", "'es_travel'", "39", "1"]]
    file = tmp_path / "payments.csv"
    file.write_text("\n".join(separator.join(row) for row in [header, *rows]))
    data = fraud.read_fraud(file)
    assert data.to_dict("records") == [
        {"age": "4", "gender": "M", "category": "es_food", "amount": 4.55, "fraud": 0},
        {"age": "U", "gender": "E", "category": "es_travel", "amount": 39.0, "fraud": 1},
    ]


def test_csv_file_without_a_column(tmp_path: Path) -> None:
    """A file that lacks a column is refused by the column's name."""
    from samples import wine

    file = tmp_path / "wine.csv"
    file.write_text('"fixed acidity";"quality"\n7.4;5\n')
    with pytest.raises(ValueError, match="'volatile acidity'"):
        wine.read_wine(file)


def test_no_registry(unused_tcp_port: int) -> None:
    """A registry that is not there is told in a line, soon, and without a traceback."""
    command = [sys.executable, "-m", "samples.train", "--registry", f"http://127.0.0.1:{unused_tcp_port}"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert failed.returncode == 1
    assert "The samples can't be registered" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_training_is_reported_to_nobody() -> None:
    """MLflow's telemetry, and the thread that it has, are off in the process that trains, whatever started it."""
    program = (
        "import samples.train, os, threading; from mlflow.telemetry.client import get_telemetry_client as client;"
        "print(client(), os.environ.get('_MLFLOW_TELEMETRY_SESSION_ID'), len(threading.enumerate()))"
    )
    # It is off under pytest anyway, and in many a CI.
    bare = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    told = subprocess.run(
        [sys.executable, "-c", program], env=bare, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["None", "None", "1"]


def columns(signature: Signature) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return names and types of inputs and outputs, which are all scalars."""
    inputs, outputs = (
        [(field.name, field.type.kind.value) for field in fields if isinstance(field.type, Scalar)]
        for fields in (signature.inputs, signature.outputs)
    )
    return inputs, outputs


def test_training_again_changes_nothing(sample_registry: RunningRegistry) -> None:
    """Models that are registered already are left alone."""
    command = [sys.executable, "-m", "samples.train", "--registry", sample_registry.url]
    again = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert again.stdout.count("version 1: was there already\n") == 3


def test_registered_samples(sample_registry: RunningRegistry) -> None:
    """All three are registered with alias, description and the signatures that Prinz's have."""
    with RegistryClient(sample_registry.url) as client:
        snapshot = Catalog(client).refresh()
    # Other tests may have registered models of their own.
    samples = [model for name, model in snapshot.models.items() if name.startswith("MLF-")]
    assert [model.name for model in samples] == [
        "MLF-ElasticnetWineModel-1",
        "MLF-ElasticnetWineModel-2",
        "MLF-FraudDetection-3",
    ]
    for model in samples:
        (version,) = model.versions
        assert (version.fault, version.aliases, version.ready) == ("", ("champion",), True)
        assert model.description
        assert version.signature is not None
        assert version.signature.origin is Origin.DECLARED
        types, outputs = columns(version.signature)
        if "Wine" in model.name:
            assert (types, outputs) == ([(name, "double") for name in WINE_COLUMNS], [("output_0", "double")])
        else:
            texts = [(name, "string") for name in ("age", "gender", "category")]
            assert (types, outputs) == ([*texts, ("amount", "double")], [("output_0", "integer")])
