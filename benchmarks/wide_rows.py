"""What rows of 500 columns of several types cost beside rows of doubles alone: `make bench-wide`.

First, in this process, what the front and the worker do with such rows, stage by stage, in µs; then calls of a service
over gRPC with requests that were written before, from send to answer, in ms. The kinds of rows are measured by turns:
a machine whose speed drifts changes no ratio. The model reads one column.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import pyarrow as pa
from serving import service

from prinz_enricher.batch import decode_columns
from prinz_enricher.batch.layout import input_layout
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.ipc.batches import BatchReader, BatchWriter
from prinz_enricher.ipc.frames import Frame, FrameKind
from prinz_enricher.registry import PrivateServer
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature
from prinz_enricher.worker.model_inputs import InputBuilder

WIDTH = 500
METHOD = "/prinz.enricher.v1.EnricherService/Score"
KINDS = {
    "doubles": ["double"],
    "a fifth text": ["double", "double", "double", "double", "string"],
    "four types": ["double", "long", "string", "boolean"],
}
"""Rows, by the types of their columns, again and again."""

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])


class First(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["c0"].to_numpy() * 2


for name, *types in (line.split(",") for line in sys.argv[3:]):
    inputs = [ColSpec(types[place % len(types)], f"c{place}", required=False) for place in range(int(sys.argv[2]))]
    mlflow.pyfunc.log_model(
        name="wide",
        python_model=First(),
        signature=ModelSignature(Schema(inputs), Schema([ColSpec("double", "y")])),
        registered_model_name=name,
        pip_requirements=["mlflow"],
    )
"""


def request(kind: str, rows: int, nulls: bool) -> bytes:
    """Write a request; with nulls, the first value of each column but the first is one."""
    message = pb.ScoreRequest()
    message.model.name = kind
    message.columns.num_rows = rows
    for place in range(WIDTH):
        column = message.columns.columns.add(name=f"c{place}")
        match KINDS[kind][place % len(KINDS[kind])]:
            case "double":
                column.doubles.values.extend(0.5 + place + row for row in range(rows))
            case "long":
                column.int64s.values.extend(place + row for row in range(rows))
            case "string":
                column.strings.values.extend(f"value {place + row}" for row in range(rows))
            case _:
                column.bools.values.extend(row % 2 == 0 for row in range(rows))
        if nulls and place:
            column.validity = b"\xfe" + b"\xff" * ((rows - 1) // 8)
    return message.SerializeToString()


def stages(kind: str, data: bytes) -> dict[str, Callable[[], object]]:
    """Give what is done with a request before the model has it, by name."""
    types = KINDS[kind]
    fields = [
        Field(f"c{place}", Scalar(ScalarKind[types[place % len(types)].upper()]), required=False)
        for place in range(WIDTH)
    ]
    signature = Signature(tuple(fields), (Field("y", Scalar(ScalarKind.DOUBLE)),))
    schema = input_layout(signature).schema
    columns = pb.ScoreRequest.FromString(data).columns
    batch = decode_columns(columns, signature)
    writer, reader = BatchWriter(), BatchReader()
    parts, schema_size = writer.parts(batch)
    reader.read(Frame(FrameKind.SCORE, 0, {}, pa.py_buffer(b"".join(parts)), schema_size))
    frame = Frame(FrameKind.SCORE, 0, {}, pa.py_buffer(b"".join(writer.parts(batch)[0])), 0)
    received = reader.read(frame)
    builder = InputBuilder(schema, schema.names)
    return {
        "parse": lambda: pb.ScoreRequest.FromString(data),
        "decode": lambda: decode_columns(columns, signature),
        "send": lambda: writer.parts(batch),
        "receive": lambda: reader.read(frame),
        "frame": lambda: builder.build(received),
    }


def by_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Give the median of each call's seconds."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 5):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            took[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[5:]) for name, seconds in took.items()}


def in_process(rows: int, nulls: bool, rounds: int) -> None:
    """Print what each stage costs."""
    all_stages = {kind: stages(kind, request(kind, rows, nulls)) for kind in KINDS}
    calls = {f"{kind} {stage}": call for kind, some in all_stages.items() for stage, call in some.items()}
    took = by_turns(calls, rounds)
    sums = {kind: sum(took[f"{kind} {stage}"] for stage in some) for kind, some in all_stages.items()}
    for kind, some in all_stages.items():
        each = "".join(f"  {stage} {took[f'{kind} {stage}'] * 1e6:>7,.0f}" for stage in some)
        print(f"{_title(kind, rows, nulls)}{each}  all {sums[kind] * 1e6:>7,.0f} µs{_ratio(sums, kind)}")


def over_grpc(address: str, rows: int, nulls: bool, rounds: int) -> None:
    """Print how long callers wait."""
    with grpc.insecure_channel(address) as channel:
        method: Callable[..., object] = channel.unary_unary(METHOD)
        took = by_turns({kind: partial(method, request(kind, rows, nulls), timeout=60) for kind in KINDS}, rounds)
    for kind, seconds in took.items():
        print(f"{_title(kind, rows, nulls)}  p50 {seconds * 1e3:>6.2f} ms{_ratio(took, kind)}")


def _title(kind: str, rows: int, nulls: bool) -> str:
    return f"{rows:>4} rows, {'with' if nulls else 'no'} nulls".ljust(22) + kind.ljust(14)


def _ratio(took: dict[str, float], kind: str) -> str:
    return f"  {took[kind] / took['doubles']:>4.1f} x doubles"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[1, 64], help="rows of a request (1 64)")
    parser.add_argument("--rounds", type=int, default=200, help="calls of each kind (200)")
    parser.add_argument("--front", default="auto", help="rust, grpcio or auto (auto)")
    arguments = parser.parse_args()
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.2f}")
    shapes = [(rows, nulls) for rows in arguments.rows for nulls in (False, True)]
    for rows, nulls in shapes:
        in_process(rows, nulls, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder, PrivateServer(f"sqlite:///{folder}/mlflow.db") as registry:
        models = [",".join((kind, *types)) for kind, types in KINDS.items()]
        command = [sys.executable, "-c", REGISTER, registry.url, str(WIDTH), *models]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        with service(registry.url, Path(folder) / "cache", PRINZ_SERVER__FRONT=arguments.front) as running:
            with Client(running.address, timeout=120) as client:
                for kind in KINDS:
                    client.score(kind, [{"c0": 1.0}])
            for rows, nulls in shapes:
                over_grpc(running.address, rows, nulls, arguments.rounds)


if __name__ == "__main__":
    main()
