"""Bodies of MLflow's protocol to us and to MLflow's own scoring server, before the same models.

Where both take a body, both give the same predictions. The tables say where one refuses what the other takes, and why;
a test fails as soon as that is not so any more.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import yaml

from prinz_enricher.fronts.http.parquet import PARQUET
from prinz_enricher.scoring.ports import Target
from prinz_enricher.signature import Signature, input_schema, output_schema, read_signature
from prinz_enricher.worker.loaded_model import LoadedModel
from tests.fronts.test_golden_over_http import PINNED, ROWS, by_invocations, instants
from tests.scoring.remote.test_same_as_mlflow import serving  # noqa: F401 - a fixture, for each test
from tests.support.guarded_service import GuardedService, model_of
from tests.support.http_api import RunningApi, running_api

# MLflow warns of what is not ours.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MIRROR = Path(__file__).parent.parent / "scoring" / "remote" / "mirror_model.py"

REFUSED = "refused"

WHOLE = -1
"""Stands for all rows of a vector in one body, where a number is one row alone."""

# What the server changes in silence, and we refuse.
CHANGED = {
    ("boolean of numbers", WHOLE), ("boolean of numbers", 0), ("boolean of numbers", 1),
    # It wraps what is beyond 32 bits, and cuts a fraction.
    ("integer of longs", WHOLE), ("integer of longs", 1), ("integer of doubles", 1), ("integer of doubles", 2),
    ("integer of booleans", WHOLE), ("integer of booleans", 0),
    ("long of doubles out of range", WHOLE), ("long of doubles out of range", 0),
    ("long of text", WHOLE), ("long of text", 0),
    # It makes infinity of what is beyond a float, and the next number of what is between two of them.
    ("float of doubles out of range", WHOLE), ("float of doubles out of range", 1),
    ("float of longs", WHOLE), ("float of longs", 1),
    ("double of longs out of range", WHOLE), ("double of longs out of range", 0),
    # A number goes to the model as one.
    ("string of numbers", WHOLE), ("string of numbers", 0),
    # It takes nanoseconds, and whole numbers for them.
    ("datetime of wrong text", 2), ("datetime of longs", WHOLE), ("datetime of longs", 0),
}  # fmt: skip

# What the server refuses, and we take.
TAKEN = {
    # It takes no time zone.
    ("datetime", 0), ("datetime", 1), ("datetime", 2),
    ("integer, optional", WHOLE), ("integer, optional", 1),
    # Several formats in one column, offsets, and nine digits that are zeros at the end.
    ("datetime of text", WHOLE), ("datetime of text", 2), ("datetime of text", 3),
    ("array of datetimes", WHOLE), ("array of datetimes", 0),
    # 2.0 is a long.
    ("map", WHOLE), ("map", 1),
}  # fmt: skip

# What both take, and the server answers with another value.
OTHER = {
    # False of a null, and NaN of a text that is missing.
    ("boolean, optional", WHOLE), ("boolean, optional", 1), ("string", WHOLE),
}  # fmt: skip


class MirrorService(GuardedService):
    """A service before a model that gives back its input, loaded as a worker loads it."""

    def __init__(self, folder: Path, signature: Signature) -> None:
        super().__init__()
        self._worker = LoadedModel(str(folder), input_schema(signature), output_schema(signature))
        model = model_of("m")
        self.catalog.change(replace(model, versions=(replace(model.versions[0], signature=signature),)))

    def function_of(self, target: Target) -> Any:
        """Return what scores the model."""
        return self._worker.score


class Both:
    """One model at both servers."""

    def __init__(self, folder: Path, api: RunningApi) -> None:
        import mlflow.pyfunc
        from mlflow.pyfunc.scoring_server import init

        self._app = httpx.ASGITransport(init(mlflow.pyfunc.load_model(str(folder))))
        self._api = api

    def ask(self, body: str | bytes, media: str = "application/json") -> tuple[str, str]:
        """Return the predictions of ours and of theirs for the same body, as Python writes them, or REFUSED."""

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._app, base_url="http://model") as client:
                return await client.post("/invocations", content=body, headers={"content-type": media})

        ours = self._api.client.post("/model/m/invocations", content=body, headers={"content-type": media})
        return _told(ours), _told(asyncio.run(send()))


def _told(answer: httpx.Response) -> str:
    """Return predictions as text in one form: the server has a dict of columns where the model returns one."""
    if answer.status_code != 200:
        # What a worker refuses since no library can hold it is a fault of the model to the pool of these tests.
        assert answer.status_code in {400, 422} or "(InvalidRows)" in answer.text, answer.text
        return REFUSED
    predictions = answer.json()["predictions"]
    if isinstance(predictions, dict):
        predictions = [dict(zip(predictions, row, strict=True)) for row in zip(*predictions.values(), strict=True)]
    # The server ends base64 with a new line.
    return json.dumps(predictions, sort_keys=True).replace("=\\n", "=")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, without a signature."""
    import mlflow

    folder = tmp_path_factory.mktemp("model") / "mirror"
    mlflow.pyfunc.save_model(path=folder, python_model=str(MIRROR), pip_requirements=["mlflow"])
    return folder


@contextmanager
def both(plain: Path, folder: Path, columns: list[Any]) -> Iterator[Both]:
    """Serve the model with these inputs and outputs, in MLflow's JSON, at both servers."""
    shutil.copytree(plain, folder)
    written = yaml.safe_load((folder / "MLmodel").read_text())
    written["signature"] = {"inputs": json.dumps(columns), "outputs": json.dumps(columns)}
    (folder / "MLmodel").write_text(yaml.safe_dump(written))
    with MirrorService(folder, read_signature(written)) as service, running_api(service) as api:
        yield Both(folder, api)


@pytest.mark.parametrize("vector", PINNED, ids=[one["name"] for one in PINNED])
def test_golden_vectors(vector: dict[str, Any], plain: Path, tmp_path: Path) -> None:
    """All rows of a vector, and each alone, have the same predictions, or the tables say why not."""
    name, columns = vector["name"], vector["mlflow_inputs"]
    rows = instants(vector["sent"]["kind"], ROWS[name])
    signature = read_signature({"signature": {"inputs": json.dumps(columns)}})
    with both(plain, tmp_path / "m", columns) as servers:
        for place, some in enumerate((rows, *([row] for row in rows)), WHOLE):
            _, body = by_invocations(0, some, signature)
            ours, theirs = servers.ask(json.dumps(body))
            case = (name, place)
            assert (ours == REFUSED != theirs) == (case in CHANGED), (case, ours, theirs)
            assert (ours != REFUSED == theirs) == (case in TAKEN), (case, ours, theirs)
            assert (REFUSED not in (ours, theirs) and ours != theirs) == (case in OTHER), (case, ours, theirs)


MIXED = [{"type": "double", "name": "x"}, {"type": "long", "name": "n"}, {"type": "string", "name": "s"}]


@pytest.mark.parametrize(
    ("body", "media"),
    [
        ({"dataframe_records": [{"x": 0.1, "n": 2**53 + 1, "s": "a"}, {"x": 5e-324, "n": -1, "s": ""}]}, ""),
        ({"dataframe_split": {"columns": ["s", "n", "x"], "data": [["ß", 2, -0.0], ["b", 0, 1e308]]}}, ""),
        ({"dataframe_split": {"index": [7], "columns": ["s", "n", "x"], "data": [["ß", 2, 1.5]]}}, ""),
        ({"instances": [{"x": 0.1, "n": 1, "s": "a"}]}, ""),
        ({"inputs": {"x": [0.1, 2.5], "n": [1, 2], "s": ["a", "b"]}}, ""),
        ({"dataframe_records": [{"x": 0.1, "n": 1, "s": "a", "more": 1}]}, ""),
        ('x,n,s\n0.1,1,a\n1e-300,-2,"b,""c"\n', "text/csv"),
        ("s,more,n,x\na,1,5,2.5\n", "text/csv"),
    ],
)
def test_forms(body: Any, media: str, plain: Path, tmp_path: Path) -> None:
    """Each form of JSON, and CSV, with columns in any order and some more, has the same predictions."""
    with both(plain, tmp_path / "m", MIXED) as servers:
        ours, theirs = servers.ask(body if media else json.dumps(body), media or "application/json")
    assert ours == theirs != REFUSED


def test_parquet(plain: Path, tmp_path: Path) -> None:
    """Parquet of pandas, with an index and a column more, has the same predictions; neither takes other types."""
    rows = {"n": [2**53 + 1, -1], "more": [1, 2], "x": [0.1, 5e-324], "s": ["ß", ""]}
    with both(plain, tmp_path / "m", MIXED) as servers:
        for frame in (pd.DataFrame(rows), pd.DataFrame(rows, index=["a", "b"]), pd.DataFrame(rows).set_index("more")):
            ours, theirs = servers.ask(frame.to_parquet(), PARQUET)
            assert ours == theirs != REFUSED
        for name, wrong in (("n", [1.5, 2.0]), ("n", ["1", "2"]), ("s", [1, 2])):
            assert servers.ask(pd.DataFrame(rows | {name: wrong}).to_parquet(), PARQUET) == (REFUSED, REFUSED)


@pytest.mark.parametrize(
    ("body", "media", "ours", "theirs"),
    [
        ('{"inputs": {"x": [1], "n": [9007199254740993.0], "s": ["a"]}}', "", 9007199254740993, 9007199254740992),
        ('{"inputs": {"x": [1], "x": [2.0], "n": [1], "s": ["a"]}}', "", REFUSED, 1),
        ('{"inputs": {"x": [1], "n": ["5"], "s": ["a"]}}', "", REFUSED, 5),
        ("x,n,s\n1,2,NA\n", "text/csv", 2, None),
    ],
)
def test_table_of_the_page(body: str, media: str, ours: Any, theirs: Any, plain: Path, tmp_path: Path) -> None:
    """The rest of the table in docs/http-api.md: what the server makes of a value, and what we do."""
    with both(plain, tmp_path / "m", MIXED) as servers:
        told = servers.ask(body, media or "application/json")
    for found, expected in zip(told, (ours, theirs), strict=True):
        assert (found == REFUSED) == (expected == REFUSED), told
        if isinstance(expected, int):
            assert json.loads(found)[0]["n"] == expected


def test_the_tables_name_vectors_that_are() -> None:
    """A difference of a vector that was renamed would never be looked at."""
    assert {name for name, _ in CHANGED | TAKEN | OTHER} <= {one["name"] for one in PINNED}
