"""How checks run, and which row a model is scored with."""

import json
import threading
import time
from pathlib import Path

import pytest

from prinz_enricher.checks.findings import Check, Finding, Outcomes, run_checks
from prinz_enricher.checks.input_example import read_example
from prinz_enricher.errors import ModelNotFound
from prinz_enricher.signature import Field, ListOf, Scalar, ScalarKind, Signature

NUMBER = Scalar(ScalarKind.DOUBLE)
TWO = Signature((Field("a", NUMBER), Field("b", Scalar(ScalarKind.STRING))), (Field("y", NUMBER),))
TENSOR = Signature((Field("input", ListOf(NUMBER)),), (Field("y", NUMBER),))


def test_findings_come_in_order() -> None:
    """Checks run side by side, and are reported in their own order; an error is a FAIL, of a bug only its kind."""
    second_ran = threading.Event()

    def first() -> Outcomes:
        assert second_ran.wait(20)
        yield "ok", "one"
        yield "warn", "two"

    def second() -> Outcomes:
        second_ran.set()
        raise ModelNotFound("wine")

    def third() -> Outcomes:
        raise KeyError("a secret")

    checks = [Check("a", "here", first), Check("b", "there", second), Check("c", "", third), Check("d", "", lambda: ())]
    found = list(run_checks(checks, time.monotonic() + 30))
    assert found[:3] == [
        Finding("ok", "a", "here", "one"),
        Finding("warn", "a", "here", "two"),
        Finding("FAIL", "b", "there", 'There is no model "wine"; ListModels tells which there are.'),
    ]
    assert (len(found), found[3].level) == (4, "FAIL")
    assert "KeyError" in found[3].message
    assert "secret" not in found[3].message


def test_time_is_bounded() -> None:
    """What has not ended in time fails, also what was not begun, and nobody waits for it."""
    release = threading.Event()

    def hangs() -> Outcomes:
        release.wait(60)
        yield "ok", "too late"

    began = time.monotonic()
    found = list(run_checks([Check("a", "", hangs), Check("b", "", hangs)], began + 0.2, at_once=1))
    release.set()
    assert [(one.what, one.level) for one in found] == [("a", "FAIL"), ("b", "FAIL")]
    assert all("--timeout gives it more" in one.message for one in found)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("signature", "example", "row"),
    [
        (TWO, {"dataframe_split": {"columns": ["b", "a"], "data": [["x", 1], ["y", 2]]}}, {"a": 1.0, "b": "x"}),
        (TWO, {"columns": [0, 1], "data": [[1.5, "x"]]}, {"a": 1.5, "b": "x"}),
        (TWO, {"inputs": [{"a": 1, "b": "x"}]}, {"a": 1.0, "b": "x"}),
        (TWO, {"inputs": {"a": [1, 2], "b": ["x", "y"]}}, {"a": 1.0, "b": "x"}),
        (TWO, {"inputs": {"a": 1, "b": "x"}}, {"a": 1.0, "b": "x"}),
        (TENSOR, {"inputs": [[1, 2], [3, 4]]}, {"input": [1.0, 2.0]}),
        (TWO, {"inputs": [{"a": "no number", "b": "x"}]}, None),
        (TWO, {"inputs": []}, None),
        (TWO, ["a"], None),
        (TWO, {"other": 1}, None),
    ],
)
def test_input_example(signature: Signature, example: object, row: dict[str, object] | None, tmp_path: Path) -> None:
    """The first row of an example is read in each form that MLflow writes; what no caller could send is none."""
    assert read_example(tmp_path, signature) is None
    # What older versions of MLflow write.
    (tmp_path / "input_example.json").write_text(json.dumps(example))
    assert (read_example(tmp_path, signature) is None) == (row is None)
    (tmp_path / "serving_input_example.json").write_text(json.dumps(example))
    (tmp_path / "input_example.json").write_text("other")
    found = read_example(tmp_path, signature)
    assert (None if found is None else found.to_pylist()) == (None if row is None else [row])
