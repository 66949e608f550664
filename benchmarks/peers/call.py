"""One call at a time from Python: to see whether a server is up, and whether its scores are the model's own."""

from __future__ import annotations

import http.client
import time

import grpc
import numpy as np

from benchmarks.peers.models import Models
from benchmarks.peers.processes import NotStarted, Server
from benchmarks.peers.protocols import Asks, Echo

START_SECONDS = 180.0
# A server may refuse while its models are loading. One that refuses for long is asked in a wrong way.
REFUSED_SECONDS = 45.0
CALL_SECONDS = 120.0
CHECKED_ROWS = 1_000
TOLERANCE = 1e-9


class Refused(Exception):
    """A server is there, and answers with an error; the message is it."""


class WrongScores(Exception):
    """A server's scores are not the model's own."""


class NotThere(Exception):
    """Nobody answers."""


def call(asks: Asks, address: str, model: str, request: bytes) -> bytes:
    """Call once.

    Raises:
        Refused: The answer is an error.
        NotThere: There is no answer.
    """
    return (_grpc if asks.transport == "grpc" else _http)(address, asks.path(model), request)


def _grpc(address: str, method: str, request: bytes) -> bytes:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options) as channel:
        try:
            answer: bytes = channel.unary_unary(method)(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            text = f"{error.code().name}: {error.details()}"
            raise (NotThere if error.code() is grpc.StatusCode.UNAVAILABLE else Refused)(text) from error
    return answer


def _http(address: str, path: str, request: bytes) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=CALL_SECONDS)
    try:
        connection.request("POST", path, request, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotThere(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()
    if answer.status in {502, 503}:
        raise NotThere(f"HTTP {answer.status}")
    if answer.status != 200:
        raise Refused(f"HTTP {answer.status}: {content[:300].decode(errors='replace')}")
    return content


def wait_until_it_scores(
    server: Server, asks: Asks, address: str, models: Models, model: str, rows: int = CHECKED_ROWS
) -> None:
    """Wait until a server scores a row of a model, and see that its scores are right: of one row and of many.

    Args:
        server: The server; one that ends is not waited for.
        asks: How it is asked.
        address: Where it listens.
        models: What it should answer.
        model: Which model.
        rows: How many are many.

    Raises:
        NotStarted: It does not come up, or answers with errors.
        WrongScores: It scores wrongly.
    """
    began = time.monotonic()
    request = asks.encode(model, models.rows(model, 1))
    refused_since = None
    while True:
        try:
            answer = call(asks, address, model, request)
            break
        except (NotThere, Refused) as error:
            now = time.monotonic()
            refused_since = (refused_since or now) if isinstance(error, Refused) else None
            if not server.runs:
                raise NotStarted(f"it ended: {server.last_words()}") from error
            if now - began > START_SECONDS or (refused_since and now - refused_since > REFUSED_SECONDS):
                raise NotStarted(f"it does not score {model}: {error}; its log: {server.last_words()}") from error
        time.sleep(0.2)
    compare(asks, answer, models, model, 1)
    try:
        answer = call(asks, address, model, asks.encode(model, models.rows(model, rows)))
    except (NotThere, Refused) as error:
        raise NotStarted(f"it does not score {rows} rows of {model}: {error}") from error
    compare(asks, answer, models, model, rows)


def compare(asks: Asks, answer: bytes, models: Models, model: str, rows: int) -> None:
    """See that the scores of an answer are what the model itself gives.

    Raises:
        WrongScores: They are not.
    """
    if isinstance(asks, Echo):
        return
    scores, expected = asks.decode(answer), models.expected(model, rows)
    if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=TOLERANCE, atol=0):
        raise WrongScores(f"{model}, {rows} rows: {scores[:3]} ({scores.shape}) where {expected[:3]} is right")
