"""The models that are scored, what is asked of them, and what they must answer."""

from __future__ import annotations

import datetime as dt
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from tests.support.own_service import register
from tests.support.registry_writer import RegistryWriter

MOVING: Final = "moving"
"""Its alias `live` moves between two versions."""

ALIAS: Final = "live"
TEXTS: Final = "texts"
"""Columns of many types, some with nulls; it raises on some rows."""

SHARED: Final = "shared"
"""The same model; only calls that share messages ask it, which callers and service count differently."""

SLOW: Final = "slow"
"""The only one that callers leave before it answers."""

REMOTE: Final = "remote"
"""Is scored by a model server elsewhere."""

GUEST: Final = "guest"
"""The names of models that come and go begin so."""

FACTORS: Final = {(MOVING, "1"): 2.0, (MOVING, "2"): 3.0, (SLOW, "1"): 11.0, (REMOTE, "1"): 13.0}
GUEST_FACTOR: Final = 7.0
NAMES: Final = (MOVING, TEXTS, SHARED, SLOW, REMOTE)
RAISES: Final = "raise"
"""The text that `TEXTS` raises on."""

_REGISTER: Final = """
import sys
import time

import mlflow
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])


class Times(mlflow.pyfunc.PythonModel):
    def __init__(self, factor, pause=0.0):
        self.factor, self.pause = factor, pause

    def predict(self, context, model_input, params=None):
        time.sleep(self.pause)
        return model_input["x"] * self.factor + model_input["y"]


def say(value, form):
    return "-" if pd.isna(value) else form(value)


class Texts(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        columns = [model_input[name].tolist() for name in ("name", "note", "number", "flag", "time", "raw", "amount")]
        if "raise" in columns[0]:
            raise LookupError("this model raises on that")
        return [
            "|".join((name, say(note, str), str(int(number)), say(flag, lambda one: str(bool(one))),
                      pd.Timestamp(time).isoformat(), raw.hex(), say(amount, lambda one: repr(float(one)))))
            for name, note, number, flag, time, raw, amount in zip(*columns)
        ]


numbers = ModelSignature(Schema([ColSpec("double", "x"), ColSpec("double", "y")]), Schema([ColSpec("double", "z")]))
required = {"name": "string", "number": "long", "time": "datetime", "raw": "binary"}
optional = {"note": "string", "flag": "boolean", "amount": "double"}
typed = ModelSignature(
    Schema([ColSpec(kind, name) for name, kind in required.items()]
           + [ColSpec(kind, name, required=False) for name, kind in optional.items()]),
    Schema([ColSpec("string", "said")]),
)


def log(name, model, signature):
    mlflow.pyfunc.log_model(
        name=name, python_model=model, signature=signature, registered_model_name=name, pip_requirements=["mlflow"]
    )


log("moving", Times(2.0), numbers)
log("moving", Times(3.0), numbers)
log("slow", Times(11.0, 0.05), numbers)
log("remote", Times(13.0), numbers)
log("original", Times(7.0), numbers)
log("texts", Texts(), typed)
log("shared", Texts(), typed)
mlflow.MlflowClient().set_registered_model_alias("moving", "live", "1")
"""

NUMBERS: Final = pa.schema([("x", pa.float64()), ("y", pa.float64())])
TYPED: Final = pa.schema(
    [
        ("name", pa.string()), ("number", pa.int64()), ("time", pa.timestamp("us")), ("raw", pa.binary()),
        ("note", pa.string()), ("flag", pa.bool_()), ("amount", pa.float64()),
    ]
)  # fmt: skip
_FIRST_DAY: Final = dt.datetime(1990, 1, 1)
_WORDS: Final = ("", "räksmörgås", '"\\', "nan", "null", "7", "🦀\n", "a longer text of several words")


def register_models(registry: RegistryWriter, folder: Path) -> str:
    """Register them; returns the source of a version that guests are made of."""
    register(registry.url, _REGISTER, folder)
    return registry.source("original", "1")


def numbers(count: int, chance: random.Random) -> pa.RecordBatch:
    """Make rows by chance for the models of numbers."""
    source = np.random.default_rng(chance.getrandbits(32))
    return pa.RecordBatch.from_arrays([source.normal(0.0, 1e6, count) for _ in NUMBERS], schema=NUMBERS)


def typed(count: int, chance: random.Random, raises: float = 0.0) -> pa.RecordBatch:
    """Make rows by chance for `TEXTS`, of which a share raises."""
    return pa.RecordBatch.from_pylist([_typed_row(chance, raises) for _ in range(count)], TYPED)


def _typed_row(chance: random.Random, raises: float) -> dict[str, Any]:
    return {
        "name": RAISES if chance.random() < raises else chance.choice(_WORDS),
        "number": chance.choice((chance.randint(-(2**63), 2**63 - 1), 2**53 + 1, 0)),
        "time": _FIRST_DAY + dt.timedelta(microseconds=chance.randint(0, 10**15)),
        "raw": chance.randbytes(chance.randint(0, 20)),
        "note": chance.choice((None, *_WORDS)),
        "flag": chance.choice((None, True, False)),
        "amount": chance.choice((None, chance.gauss(0.0, 1.0), 5e-324, -0.0, 1.7976931348623157e308)),
    }


def answer(model: str, version: str, rows: pa.RecordBatch) -> pa.Array | None:
    """Return what a version must answer; None where it must raise, or where there is no such version."""
    if model in {TEXTS, SHARED}:
        records = rows.to_pylist()
        if version != "1" or any(row["name"] == RAISES for row in records):
            return None
        return pa.array([_said(row) for row in records], pa.string())
    factor = GUEST_FACTOR if model.startswith(GUEST) and version == "1" else FACTORS.get((model, version))
    x, y = (rows.column(name).to_numpy() for name in ("x", "y"))
    return None if factor is None else pa.array(x * factor + y)


def _said(row: Mapping[str, Any]) -> str:
    def say(value: object, text: str) -> str:
        return "-" if value is None else text

    return "|".join(
        (
            row["name"], say(row["note"], row["note"]), str(row["number"]), say(row["flag"], str(row["flag"])),
            row["time"].isoformat(), row["raw"].hex(), say(row["amount"], repr(row["amount"])),
        )
    )  # fmt: skip


def remote_answer(body: Mapping[str, Any]) -> bytes:
    """Answer an invocation of `REMOTE`."""
    table = body.get("inputs")
    if table is None:
        split = body["dataframe_split"]
        columns: Sequence[Sequence[float]] = list(zip(*split["data"], strict=True))
        table = dict(zip(split["columns"], columns, strict=True))
    # Among the samples with which a model is tried are nulls.
    pairs = [(x or 0.0, y or 0.0) for x, y in zip(table["x"], table["y"], strict=True)]
    return json.dumps({"predictions": [x * FACTORS[REMOTE, "1"] + y for x, y in pairs]}).encode()
