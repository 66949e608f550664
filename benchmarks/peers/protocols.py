"""How each server is asked: a request of rows as bytes, and the scores out of its answer.

Whatever a server takes quickest is what it is sent: numbers as raw bytes where its protocol has them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.peers.messages import message
from benchmarks.peers.models import NAMES
from prinz_enricher.contract import enricher_service_pb2 as pb


class Asks(Protocol):
    """A way to ask.

    Attributes:
        transport: What the bytes travel by.
    """

    transport: Literal["grpc", "http"]

    def path(self, model: str) -> str:
        """Return the gRPC method, or the path of the URL."""

    def encode(self, model: str, rows: pd.DataFrame) -> bytes:
        """Return the bytes of a request."""

    def decode(self, answer: bytes) -> np.ndarray:
        """Return the scores in an answer, as doubles."""


class OpenInference:
    """The Open Inference Protocol over gRPC, a tensor for each column, raw.

    Args:
        pandas: Whether columns are marked for MLServer as those of a DataFrame.
    """

    transport: Literal["grpc"] = "grpc"

    def __init__(self, *, pandas: bool) -> None:
        self._pandas = pandas

    def path(self, model: str) -> str:
        """Return the method; the model is in the message."""
        return "/inference.GRPCInferenceService/ModelInfer"

    def encode(self, model: str, rows: pd.DataFrame) -> bytes:
        """Return a ModelInferRequest."""
        request = message("inference.ModelInferRequest")(model_name=model)
        if self._pandas:
            request.parameters["content_type"].string_param = "pd"
        for name, values in rows.items():
            texts = values.dtype.kind not in "fiu"
            column = request.inputs.add(name=str(name), datatype="BYTES" if texts else "FP64", shape=[len(rows)])
            if texts and self._pandas:
                column.parameters["content_type"].string_param = "str"
            request.raw_input_contents.append(_raw_texts(values) if texts else values.to_numpy("<f8").tobytes())
        return bytes(request.SerializeToString())

    def decode(self, answer: bytes) -> np.ndarray:
        """Return the only output."""
        response = message("inference.ModelInferResponse").FromString(answer)
        output = response.outputs[0]
        types = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "INT32": "<i4"}
        if response.raw_output_contents:
            return np.frombuffer(response.raw_output_contents[0], types[output.datatype]).astype("float64")
        contents = output.contents
        values = (contents.fp64_contents, contents.fp32_contents, contents.int64_contents, contents.int_contents)
        return np.array(next((found for found in values if found), []), dtype="float64")


def _raw_texts(values: pd.Series) -> bytes:
    texts = [str(value).encode() for value in values]
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


class RayRows:
    """The contract of rows.proto, over Ray Serve's gRPC proxy."""

    transport: Literal["grpc"] = "grpc"

    def path(self, model: str) -> str:
        """Return the method."""
        return "/peers.Scoring/Score"

    def encode(self, model: str, rows: pd.DataFrame) -> bytes:
        """Return a message Rows."""
        request = message("peers.Rows")(model=model)
        for name, values in rows.items():
            column = request.columns.add(name=str(name))
            if values.dtype.kind == "f":
                column.doubles = values.to_numpy("<f8").tobytes()
            else:
                column.strings.extend(map(str, values))
        return bytes(request.SerializeToString())

    def decode(self, answer: bytes) -> np.ndarray:
        """Return the doubles."""
        return np.frombuffer(message("peers.Scores").FromString(answer).doubles)


@dataclass(frozen=True)
class Json:
    """JSON over HTTP.

    Attributes:
        url: The path for a model.
        body: Makes what is sent out of rows.
        scores: Takes the scores out of what comes.
    """

    url: Callable[[str], str]
    body: Callable[[pd.DataFrame], object]
    scores: Callable[[Any], object]
    transport: Literal["http"] = "http"

    def path(self, model: str) -> str:
        """Return the path of the URL."""
        return self.url(model)

    def encode(self, model: str, rows: pd.DataFrame) -> bytes:
        """Return the JSON text."""
        return json.dumps(self.body(rows), separators=(",", ":")).encode()

    def decode(self, answer: bytes) -> np.ndarray:
        """Return the scores."""
        return np.asarray(self.scores(json.loads(answer)), dtype="float64")


def mlflow_json() -> Json:
    """Return how MLflow's scoring server is asked."""
    return Json(
        url=lambda _: "/invocations",
        body=lambda rows: {"dataframe_split": {"columns": list(rows.columns), "data": rows.to_numpy().tolist()}},
        scores=lambda told: told["predictions"],
    )


def rows_json(scores: Callable[[Any], object], suffix: str = "") -> Json:
    """Return how a server is asked that takes lists of rows, on a path for each model that ends in a suffix."""
    return Json(
        url=lambda model: f"/{model}{suffix}", body=lambda rows: {"rows": rows.to_numpy().tolist()}, scores=scores
    )


class Echo:
    """A server that answers with the request itself, or a part of it: nothing to check but that it answers."""

    transport: Literal["grpc"] = "grpc"

    def path(self, model: str) -> str:
        """Return the method."""
        return "/peers.Echo/Score"

    def encode(self, model: str, rows: pd.DataFrame) -> bytes:
        """Return what ours is sent for as many rows."""
        return Prinz("arrow" if len(rows) > 1 else "columns").encode(model, rows)

    def decode(self, answer: bytes) -> np.ndarray:
        """Return nothing."""
        return np.empty(0)


class Prinz:
    """Our own contract.

    Args:
        form: Which of its three forms rows have.
        digest: The signature's, which the dense form needs.
        chunk: Rows of one record batch in an Arrow stream.
    """

    transport: Literal["grpc"] = "grpc"

    def __init__(self, form: Literal["columns", "dense", "arrow"], digest: str = "", chunk: int = 1_000_000) -> None:
        self._form = form
        self._digest = digest
        self._chunk = chunk

    def path(self, model: str) -> str:
        """Return the method."""
        return "/prinz.enricher.v1.EnricherService/Score"

    def encode(self, model: str, rows: pd.DataFrame) -> bytes:
        """Return a ScoreRequest."""
        return self.request(model, rows).SerializeToString()

    def request(self, model: str, rows: pd.DataFrame) -> pb.ScoreRequest:
        """Return a ScoreRequest as a message."""
        request = pb.ScoreRequest()
        request.model.name = NAMES[model]
        if self._form == "columns":
            request.columns.num_rows = len(rows)
            for name, values in rows.items():
                column = request.columns.columns.add(name=str(name))
                sent = column.doubles if values.dtype.kind == "f" else column.strings
                sent.values.extend(values.tolist())  # noqa: PD011 - a message's
        elif self._form == "dense":
            request.signature_digest = self._digest
            request.dense.num_rows = len(rows)
            request.dense.values = rows.to_numpy("<f8").tobytes()
        else:
            table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=self._chunk)
            request.arrow_stream = sink.getvalue().to_pybytes()
        return request

    def decode(self, answer: bytes) -> np.ndarray:
        """Return the only output."""
        response = pb.ScoreResponse.FromString(answer)
        match response.WhichOneof("output"):
            case "dense":
                return np.frombuffer(response.dense.values)
            case "arrow_stream":
                table = pa.ipc.open_stream(response.arrow_stream).read_all()
                return np.asarray(table.column(0).to_numpy(), dtype="float64")
            case _:
                column = response.columns.columns[0]
                values = getattr(column, column.WhichOneof("values") or "doubles").values  # noqa: PD011 - a message's
                return np.array(values, dtype="float64")
