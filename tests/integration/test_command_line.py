"""The client commands against a running service."""

import asyncio
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from prinz_enricher.cli import group
from prinz_enricher.cli.demo import EXAMPLES, WINE_COLUMNS
from prinz_enricher.client import AsyncClient, Client, ModelReference
from prinz_enricher.errors import InvalidInput
from tests.support.deadline import wait_until
from tests.support.running_service import LONG, Service

WINE = "MLF-ElasticnetWineModel-1"
FRAUD = "MLF-FraudDetection-3"
ROWS = [{**{name: i + j / 8 for j, name in enumerate(WINE_COLUMNS)}, "quality": i % 7} for i in range(500)]


def run(service: Service, *arguments: str) -> Result:
    """Run a command against the service."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(group, [*arguments, "--address", service.address])


def write_csv(path: Path, separator: str) -> None:
    """Write the rows as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*WINE_COLUMNS, "quality"], delimiter=separator, quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        writer.writerows(ROWS)


def test_models(service: Service) -> None:
    """`models` lists every sample model."""
    result = run(service, "models")

    assert result.exit_code == 0
    assert [name for name in (WINE, FRAUD, "champion") if name not in result.output] == [], result.output


def test_signature(service: Service) -> None:
    """`signature` shows names and types."""
    result = run(service, "signature", f"{FRAUD}@champion")

    assert result.exit_code == 0
    assert all(word in result.output for word in ("amount", "double", "output_0", "integer"))


@pytest.fixture
def names_with_at(service: Service, client: Client) -> Iterator[None]:
    """The wine model as `at@wine`; and `at`, the fraud model, whose aliases are `wine` and `fraud`."""
    with httpx.Client(base_url=f"{service.registry}/api/2.0/mlflow/", trust_env=False, timeout=30.0) as registry:

        def post(path: str, **content: str) -> None:
            assert registry.post(path, json=content).status_code == httpx.codes.OK

        for name, model, aliases in (("at@wine", WINE, ["champion"]), ("at", FRAUD, ["wine", "fraud"])):
            post("registered-models/create", name=name)
            post("model-versions/create", name=name, source=f"models:/{model}/1")
            for alias in aliases:
                post("registered-models/alias", name=name, alias=alias, version="1")

        def read() -> tuple[int, int]:
            models = list(client.list_models('name LIKE "at%"', full=True))
            signatures = sum(version.HasField("signature") for model in models for version in model.versions)
            return signatures, sum(len(model.aliases) for model in models)

        wait_until(lambda: read() == (2, 3))
        yield
        for name in ("at@wine", "at"):
            assert registry.request("DELETE", "registered-models/delete", json={"name": name}).is_success


@pytest.mark.usefixtures("names_with_at")
def test_names_with_an_at(service: Service, tmp_path: Path) -> None:
    """A model of the whole name goes before an alias, for the commands and the clients; errors say how to write it."""
    for text, column in (
        ("at@wine", "alcohol"),
        ("at@wine/1", "alcohol"),
        ("at@wine@champion", "alcohol"),
        ("at@fraud", "amount"),
        ("at", "amount"),
    ):
        shown = run(service, "signature", text).output
        assert column in shown, shown
    for text in ("at@nobody", "nobody@at", "at@wine@nobody"):
        told = run(service, "signature", text)
        assert (told.exit_code, "a@b@alias" in told.output) == (1, True)
    write_csv(tmp_path / "rows.csv", ",")
    done = run(
        service, "score", "at@wine", "--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "scored.json")
    )
    assert done.exit_code == 0, done.output
    assert len((tmp_path / "scored.json").read_text().splitlines()) == len(ROWS)
    row = dict.fromkeys(WINE_COLUMNS, 1.0)
    with Client(service.address, timeout=LONG) as client:
        assert client.score("at@wine", row).to_rows() == client.score("at@wine@champion", row).to_rows()
        with pytest.raises(InvalidInput):
            client.score(ModelReference("at", alias="wine"), [row])

    async def score() -> str:
        async with AsyncClient(service.address, timeout=LONG) as client:
            return (await client.score("at@wine", row)).name

    assert asyncio.run(score()) == "at@wine"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_score_csv(service: Service, client: Client, tmp_path: Path, separator: str) -> None:
    """A CSV file of any separator is scored, in parts, and columns that are no inputs are kept."""
    write_csv(tmp_path / "rows.csv", separator)
    target = tmp_path / "scored.parquet"

    result = run(
        service, "score", WINE, "--input", str(tmp_path / "rows.csv"), "--output", str(target), "--batch-rows", "77"
    )

    # A matrix product may differ in its last bit with the number of rows, so the parts must be the same.
    inputs = [{name: row[name] for name in WINE_COLUMNS} for row in ROWS]
    expected = [
        score["output_0"] for i in range(0, 500, 77) for score in client.score(WINE, inputs[i : i + 77]).to_rows()
    ]
    scored = pq.read_table(target)
    assert result.exit_code == 0, result.output
    assert scored.schema.names == ["quality", "output_0"]
    assert scored["quality"].to_pylist() == [row["quality"] for row in ROWS]
    assert scored["output_0"].to_pylist() == expected
    assert "500 rows scored" in result.output
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("source", ["rows.parquet", "rows.json", "lines.json"])
@pytest.mark.parametrize("target", ["scored.csv", "scored.json", "scored.parquet"])
def test_score_formats(service: Service, client: Client, tmp_path: Path, source: str, target: str) -> None:
    """Every format that is read and every format that is written gives the same scores."""
    rows = [{**EXAMPLES[FRAUD][0], "amount": 10.0 * i, "id": i} for i in range(50)]
    if source == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / source)
    elif source == "rows.json":
        (tmp_path / source).write_text(json.dumps(rows))
    else:
        (tmp_path / source).write_text("\n".join(map(json.dumps, rows)) + "\n")

    result = run(
        service, "score", FRAUD, "--input", str(tmp_path / source), "--output", str(tmp_path / target), "--keep-inputs"
    )

    assert result.exit_code == 0, result.output
    if target.endswith("csv"):
        scored = pacsv.read_csv(tmp_path / target).to_pylist()
    elif target.endswith("json"):
        scored = [json.loads(line) for line in (tmp_path / target).read_text().splitlines()]
    else:
        scored = pq.read_table(tmp_path / target).to_pylist()
    answers = client.score(FRAUD, [{k: v for k, v in row.items() if k != "id"} for row in rows]).to_rows()
    assert [int(row["id"]) for row in scored] == list(range(50))
    assert [int(row["output_0"]) for row in scored] == [answer["output_0"] for answer in answers]


def test_numbers_in_a_text_column(service: Service, tmp_path: Path) -> None:
    """A column that is text in the signature is text, though every cell of the file is a number."""
    (tmp_path / "rows.csv").write_text("age,gender,category,amount\n4,F,es_transportation,800\n05,M,es_travel,1\n")

    result = run(
        service,
        "score",
        FRAUD,
        "--input",
        str(tmp_path / "rows.csv"),
        "--output",
        str(tmp_path / "o.json"),
        "--keep-inputs",
    )

    assert result.exit_code == 0, result.output
    assert [json.loads(line)["age"] for line in (tmp_path / "o.json").read_text().splitlines()] == ["4", "05"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("age,gender,category,amount\n4,F,es_travel,much\n", "much"),
        ("age,gender,amount\n4,F,1.0\n", 'columns["category"]'),
        ("", "header"),
        ("age,age\n", 'two columns named "age"'),
        ("age,gender,category,amount,output_0\n4,F,es_travel,1.0,x\n", "--prefix"),
    ],
)
def test_file_that_can_not_be_scored(service: Service, tmp_path: Path, content: str, said: str) -> None:
    """A faulty file ends the command with one sentence, and leaves no output behind."""
    (tmp_path / "rows.csv").write_text(content)

    result = run(
        service, "score", FRAUD, "--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "o.parquet")
    )

    assert result.exit_code == 1
    assert said in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_file_without_rows(service: Service, tmp_path: Path) -> None:
    """A file with a header alone gives a file with no rows and the columns of the scores."""
    (tmp_path / "rows.csv").write_text("age,gender,category,amount\n")

    result = run(
        service, "score", FRAUD, "--input", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "o.parquet")
    )

    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "o.parquet").schema.names == ["output_0"]


def test_no_service_there() -> None:
    """Without a service the command says so, and where it looked."""
    result = CliRunner().invoke(group, ["models", "--address", "127.0.0.1:9", "--timeout", "5"])

    assert result.exit_code == 1
    assert "127.0.0.1:9" in result.output


def test_own_service(service: Service) -> None:
    """With --registry a command brings a service of its own."""
    result = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", "models", "--registry", service.registry],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )

    assert result.returncode == 0, result.stderr
    assert FRAUD in result.stdout


def test_help() -> None:
    """Every command tells its options."""
    for name in group.list_commands(None):  # type: ignore[arg-type]  # the list is the same in every context
        result = CliRunner().invoke(group, [name, "--help"])

        assert result.exit_code == 0
        assert "Usage:" in result.output
