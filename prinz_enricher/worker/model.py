"""One loaded model: rows in, declared outputs out, by the shortest way that gives the model's own answers."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa

from .arrays import takes_array
from .batching import may_share
from .faults import InvalidRows
from .frame import InputBuilder
from .made_rows import made_batch
from .results import OutputReader
from .samples import example_batch

_Predict = Callable[[Any, dict[str, Any] | None], Any]


class LoadedModel:
    """A model that scores record batches.

    MLflow's schema enforcement costs about 30 µs a column for each call, and the front has checked the rows already. So
    the flavour's own predict is called on a frame with the exact dtypes (the short path), or an estimator's on the bare
    array of it (the array path), where it is proven on sample rows that this gives the same bits as
    `PyFuncModel.predict` (the full path).

    Attributes:
        path: `array`, `short` or `full`.
        why: Why it is that path.
        outputs: The schema of the scores.
        batching: Whether rows of several callers may share a call; set by `warm`.
        batching_why: Why that is so.
    """

    def __init__(self, folder: str, inputs: pa.Schema, outputs: pa.Schema) -> None:
        """Load a model.

        Args:
            folder: The local folder with its MLmodel file.
            inputs: The schema of the batches.
            outputs: The schema of the scores.

        Raises:
            Exception: Whatever its loader raises.
        """
        import mlflow.pyfunc

        self._pyfunc = mlflow.pyfunc.load_model(folder)
        # MLflow warns on each call of what it says once at load; a log line for each call helps nobody.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        metadata = self._pyfunc.metadata
        signature = metadata.signature
        declared_in = signature.inputs if signature is not None else None
        declared_out = signature.outputs if signature is not None else None
        if declared_in is not None and len(declared_in.inputs) != len(inputs):
            raise ValueError("the signature of the downloaded model is not the one that the registry shows")
        self._all_doubles = all(type == pa.float64() for type in inputs.types)
        self.outputs = outputs
        self._inputs = InputBuilder(inputs, _names(declared_in), declared=declared_in is not None)
        named = declared_out is not None and declared_out.has_input_names()
        self._outputs = OutputReader(outputs, named=named, required=_required(declared_out) if named else ())
        self._hinted = _tells(metadata, "_is_signature_from_type_hint")
        self._params_schema = signature.params if signature is not None else None
        self.path, self.why = "full", "not proven"
        self.batching, self.batching_why = False, "not tried"
        self._predict: _Predict = self._pyfunc.predict
        self._build: Callable[[pa.RecordBatch], Any] = self._inputs.build
        if self._hinted:
            self.why = "the signature comes from type hints"
        elif self._inputs.takes_arrays or declared_in is None:
            self.why = "MLflow's own checks are cheap for it"
        elif _tells(metadata, "_is_type_hint_from_example"):
            self.why = "MLflow converts the input to the form of the example"
        else:
            self._prove(folder, declared_in, inputs)

    def score(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> pa.RecordBatch:
        """Score one or more rows.

        Raises:
            WorkerFault: The rows can't be held, or the answer is not what is declared.
            BaseException: Whatever the model raises.
        """
        return self._outputs.read(self.predict(batch, params), batch.num_rows)

    @property
    def takes_array(self) -> bool:
        """Whether rows of doubles may be scored as an array."""
        return self.path == "array" and self._all_doubles

    def score_array(self, rows: Any, params: dict[str, Any] | None) -> Any:
        """Score rows as `score` does, without Arrow; only where `takes_array`.

        Args:
            rows: An array of shape (rows, columns) that is the model's to change, each column in one piece.
            params: Of the call.

        Returns:
            An array of one double for each row, where that is all that is declared and that came; else a record batch.
        """
        result = self._call(self._predict, rows, params)
        return result if self._outputs.is_bare(result, len(rows)) else self._outputs.read(result, len(rows))

    def predict(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> Any:
        """Give what the model returns for some rows."""
        return self._call(self._predict, self._input(batch), params)

    def warm(
        self, folder: str, inputs: pa.Schema, params: dict[str, Any] | None = None, *, exact: bool = False
    ) -> None:
        """Predict, so that the first caller does not pay for what the model does lazily, and try sharing a call.

        Args:
            folder: The local folder with its MLmodel file.
            inputs: The schema of the batches.
            params: The parameters' defaults.
            exact: Whether each row's answer must be the same to the bit, alone and among others.
        """
        signature = self._pyfunc.metadata.signature
        samples = self._samples(folder, signature.inputs if signature is not None else None, inputs)
        self.batching, self.batching_why = may_share(lambda rows: self.score(rows, params), samples, exact=exact)

    def _input(self, batch: pa.RecordBatch) -> Any:
        if self._hinted:
            # A model with type hints takes a list with the values of its one column.
            return [_bare(value) for value in self._inputs.values(batch)]
        data = self._build(batch)
        if self.path == "full" and not self._inputs.takes_arrays:
            self._inputs.check_guesses(data)
        return data

    def _call(self, predict: _Predict, data: Any, params: dict[str, Any] | None) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return predict(data, params)
        except MlflowException as exc:
            # Its message shows the rows, so it is not passed on.
            if getattr(exc, "error_class", None) == "SCHEMA_ENFORCEMENT_FAILED" or _is_of_enforcement(exc):
                raise InvalidRows("MLflow's own schema enforcement refuses the rows") from exc
            raise

    def _prove(self, folder: str, declared: Any, inputs: pa.Schema) -> None:
        """Take the shortest path that gives the same bits as the full one on sample rows."""
        samples = self._samples(folder, declared, inputs)
        shorter: list[tuple[str, _Predict, Callable[[pa.RecordBatch], Any]]] = []
        estimator = takes_array(self._pyfunc, inputs, _names(declared) or range(len(inputs)))
        if estimator is not None:
            shorter.append(("array", lambda data, _: estimator.predict(data), self._inputs.array))
        shorter.append(("short", self._short_path(), self._inputs.build))
        for name, predict, build in shorter:
            proven, self.why = self._same_as_full(name, predict, build, samples)
            if proven:
                self.path, self._predict, self._build = name, predict, build
                return

    def _same_as_full(
        self, name: str, predict: _Predict, build: Callable[[pa.RecordBatch], Any], samples: list[pa.RecordBatch]
    ) -> tuple[bool, str]:
        """Tell whether a path gives the same bits as the full one, and why."""
        why = "not proven"
        for batch in samples:
            try:
                full_answer = self._outputs.read(self._pyfunc.predict(self._inputs.build(batch)), batch.num_rows)
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                why = f"the full path raises {type(exc).__name__} on sample rows"
                continue
            try:
                answer = self._outputs.read(predict(build(batch), None), batch.num_rows)
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                return False, f"the {name} path raises {type(exc).__name__} on sample rows"
            if answer.serialize().equals(full_answer.serialize()):
                return True, "proven on sample rows"
            return False, f"the {name} path gives other answers on sample rows"
        return False, why

    def _samples(self, folder: str, declared: Any, inputs: pa.Schema) -> list[pa.RecordBatch]:
        samples = []
        if declared is not None:
            try:
                samples.append(example_batch(self._pyfunc, folder, declared, inputs))
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                _say(f"the input example can't be used ({type(exc).__name__})")
        try:
            samples.append(made_batch(inputs))
        except (TypeError, ValueError, pa.ArrowException) as exc:
            _say(f"no rows can be made for the signature ({type(exc).__name__})")
        return [batch for batch in samples if batch is not None and batch.num_rows]

    def _short_path(self) -> _Predict:
        implementation = self._pyfunc._model_impl  # noqa: SLF001 - documented as a stable developer API
        flavour = self._pyfunc.metadata.flavors["python_function"]
        predict = getattr(implementation, flavour.get("predict_fn", "predict"))
        taken = inspect.signature(predict).parameters.get("params")
        takes_params = taken is not None and taken.kind is not inspect.Parameter.VAR_KEYWORD

        def short(data: Any, params: dict[str, Any] | None) -> Any:
            if not takes_params:
                return predict(data)
            return predict(data, params=self._enforced(params))

        return short

    def _enforced(self, params: dict[str, Any] | None) -> Any:
        """Give the parameters as MLflow would hand them to the model."""
        from mlflow.models.utils import _enforce_params_schema

        return None if self._params_schema is None else _enforce_params_schema(params, self._params_schema)


def _is_of_enforcement(exc: BaseException) -> bool:
    """Tell whether MLflow's schema enforcement raised an exception: MLflow 2 does not say so in it."""
    return any(frame.f_code.co_name == "_enforce_schema" for frame, _ in traceback.walk_tb(exc.__traceback__))


def _tells(metadata: Any, what: str) -> bool:
    """Ask what MLflow tells nowhere else; before version 2.20 there were no type hints to ask for."""
    ask = getattr(metadata, what, None)
    return ask is not None and bool(ask())


def _required(declared: Any) -> list[str]:
    """Give the names of the declared outputs that every row has."""
    # Before MLflow 2.7 none was optional; tensors are not even now.
    return [str(spec.name) for spec in declared.inputs if getattr(spec, "required", True)]


def _names(declared: Any) -> list[str | int] | None:
    """Give the names of declared inputs; None where they have none."""
    if declared is None or not declared.has_input_names():
        return None if declared is not None else []
    return list(declared.input_names())


def _bare(value: Any) -> Any:
    """Give a numpy scalar as Python's own, which is what strict type hints accept."""
    if isinstance(value, dict):
        return {name: _bare(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_bare(one) for one in value]
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return value.tolist() if hasattr(value, "tolist") else value


def _say(what: str) -> None:
    print(what, file=sys.stderr)  # noqa: T201 - the front logs what a worker prints
