"""What the errors of a model server mean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.scoring.remote.predictions import decode_error
from tests.batch.batch_strategies import jsons


def error(message: str, **more: str) -> bytes:
    """Write an error as MLflow does."""
    return json.dumps({"error_code": "BAD_REQUEST", "message": message, **more}).encode()


RAISED = (
    "Encountered an unexpected error while evaluating the model. Verify that the serialized input Dataframe is"
    " compatible with the model for inference."
)
TRACE = 'Traceback (most recent call last):\n  File "m.py", line 1, in predict\n    raise it\n    ^^^^^^^^\n'
CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


@pytest.mark.parametrize(
    ("trace", "name"),
    [
        (TRACE + "ValueError: secret\n", "ValueError"),
        (TRACE + "ValueError\n", "ValueError"),
        (TRACE + "ValueError: first line\nSecret: second line\n", "ValueError"),
        (TRACE + "sklearn.exceptions.NotFittedError: secret", "NotFittedError"),
        (TRACE + "m.make.<locals>.Odd: secret\n", "Odd"),
        (TRACE + "KeyError: 'a'\n" + CAUSE + TRACE + "RuntimeError: secret\n", "RuntimeError"),
        (TRACE + "KeyError: 'a'\n" + CONTEXT + TRACE + "TypeError: secret\nmore\n", "TypeError"),
        (TRACE + "secret words: no name\n", "unknown"),
        (TRACE, "unknown"),
        ("", "unknown"),
        ("secret", "unknown"),
        ("X" * 10_000, "unknown"),
        (TRACE + "X" * 10_000 + "\n", "unknown"),
    ],
)
def test_an_exception_of_the_model_is_told_by_its_type(trace: str, name: str) -> None:
    """By nothing of its message, which may hold data."""
    assert decode_error(400, error(RAISED, stack_trace=trace)) == ("model_error", name)


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (400, error(RAISED), ("model_error", "unknown")),
        (400, error("Invalid input. Data is not compatible with model signature."), ("invalid_input", "unknown")),
        (
            400,
            error("Failed to predict data '1'. \nError: Failed to enforce schema of data '1'"),
            ("invalid_input", "unknown"),
        ),
        (
            400,
            error("Failed to predict data '1'.", error_class="SCHEMA_ENFORCEMENT_FAILED"),
            ("invalid_input", "unknown"),
        ),
        (400, error("Failed to predict data '1'. \nError: Invalid parameters found: {}"), ("invalid_input", "unknown")),
        (500, error("Failed to predict data '1'. \nError: bad things"), ("model_error", "MlflowException")),
        (400, error("Failed to parse input as a Pandas DataFrame.", stack_trace=TRACE + "OSError\n"), ("unknown",) * 2),
        (404, error("Invalid input. No such endpoint."), ("unknown", "unknown")),
        (401, error(RAISED), ("unknown", "unknown")),
        (500, b"Internal Server Error", ("unknown", "unknown")),
        (502, b"\xff", ("unknown", "unknown")),
        (400, b"[" * 100_000, ("unknown", "unknown")),
        (400, b'{"message": 1}', ("unknown", "unknown")),
        (400, b"[]", ("unknown", "unknown")),
    ],
)
def test_errors_are_told_apart(status: int, content: bytes, told: tuple[str, str]) -> None:
    """The rows, the model, or something else."""
    assert decode_error(status, content) == told


@given(st.integers(400, 599), st.binary() | jsons.map(lambda value: json.dumps(value).encode()))
def test_no_error_is_too_strange(status: int, content: bytes) -> None:
    """Whatever comes is one of three kinds."""
    kind, _ = decode_error(status, content)
    assert kind in {"invalid_input", "model_error", "unknown"}
