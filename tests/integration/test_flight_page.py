"""docs/flight.md: its program against a whole service, and what an exchange costs the front in memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl
import pytest

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client
from tests.support.front_core import KINDS
from tests.support.running_service import LONG, Service
from tests.support.serve_process import Serve, serve

MODEL = "MLF-ElasticnetWineModel-1"
ROWS = 50_000
MOST_MIB = 200
"""MiB by which the front may grow while ten million rows pass through it."""


def resident(served: Serve) -> int:
    """Return the memory of a front in MiB."""
    status = Path(f"/proc/{served.process.pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) >> 10


@pytest.fixture(params=KINDS)
def served(service: Service, request: pytest.FixtureRequest) -> Iterator[Serve]:
    """A service with Flight on the port of gRPC, whose model is loaded."""
    with serve("--registry", service.registry, "--front", str(request.param), "--flight-port", "0") as served:
        with Client(served.address, timeout=LONG) as client:
            client.score(MODEL, dict.fromkeys(WINE_COLUMNS, 0.5))
        yield served


def test_the_example_of_the_page(served: Serve) -> None:
    """It prints the number of rows, and the version that scored them."""
    page = (Path(__file__).parents[2] / "docs" / "flight.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program.replace("localhost:50051", served.address)],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["200000", "1"]


@pytest.mark.slow
def test_ten_million_rows(served: Serve) -> None:
    """They are scored as `Score` scores them, and the front holds a few batches of them at a time."""
    batch = pa.record_batch(
        {name: np.random.default_rng(place).random(ROWS) for place, name in enumerate(WINE_COLUMNS)}
    )
    before, most = resident(served), 0
    with Client(served.address, timeout=LONG) as one, fl.connect(f"grpc://{served.address}") as client:
        expected = one.score(MODEL, batch).batch.column(0)
        command = json.dumps({"model": {"name": MODEL}}).encode()
        writer, reader = client.do_exchange(fl.FlightDescriptor.for_command(command))

        def send() -> None:
            writer.begin(batch.schema)
            for _ in range(200):
                writer.write_batch(batch)
            writer.done_writing()

        sender = threading.Thread(target=send)
        sender.start()
        for number in range(200):
            scores = reader.read_chunk().data.column(0)
            assert scores.equals(expected), number
            most = max(most, resident(served))
        with pytest.raises(StopIteration):
            reader.read_chunk()
        sender.join(LONG)
    assert most - before <= MOST_MIB, (before, most)
