"""One loaded model: rows in, declared outputs out, by the shortest way that gives the model's own answers."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows

from .arrays import takes_array
from .batching import RowsExchanged, Sharing, kept, may_share
from .forms import Form, bare, form_of_example, shaped, undeclared_form
from .frame import InputBuilder
from .made_rows import made_batch
from .null_dtypes import choose_null_dtype
from .results import OutputReader
from .samples import example_batch, input_example
from .trial import Sample, UnfitModel, check_answers

_Predict = Callable[[Any, dict[str, Any] | None], Any]

_MOST_PARAMS = 64
"""Sets of parameters for which it is remembered which rows may be in one call."""

_TRIED_ROWS = 4
"""Of a caller's request that are scored alone as well, where no sample showed what several rows are."""


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
        sharing: Which rows may be in one call; set by `warm`.
    """

    def __init__(
        self, folder: str, inputs: pa.Schema, outputs: pa.Schema, observed: tuple[bool, Sequence[str]] | None = None
    ) -> None:
        """Load a model.

        Args:
            folder: The local folder with its MLmodel file.
            inputs: The schema of the batches.
            outputs: The schema of the scores.
            observed: Where the outputs are not the declared ones but those that were observed: whether they have
                names, and which of them every row has.

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
        self._fields = {field.name: field for field in inputs}
        self.outputs = outputs
        self._inputs = InputBuilder(inputs, _names(declared_in), declared=declared_in is not None)
        if observed is None:
            named = declared_out is not None and declared_out.has_input_names()
            observed = named, _required(declared_out) if named else ()
        self._outputs = OutputReader(outputs, named=observed[0], required=observed[1])
        self._hinted = _tells(metadata, "_is_signature_from_type_hint")
        self._params_schema = signature.params if signature is not None else None
        self._example = input_example(self._pyfunc, folder)
        self._form = Form.FRAME
        self.path, self.why = "full", "not proven"
        self.sharing = Sharing(shared=False, single=False, why="not tried", shown=False)
        self._exact = False
        self._by_params: dict[str, Sharing] = {}
        self._predict: _Predict = self._pyfunc.predict
        self._build: Callable[[pa.RecordBatch], Any] = self._inputs.build
        self._samples = self._find_samples(declared_in, inputs)
        with self._outputs.trying():
            self._choose_path(declared_in, inputs)
        self._outputs.answers.forget()

    def _choose_path(self, declared: Any, inputs: pa.Schema) -> None:
        """Find out in what form the model takes its rows, and the shortest way to call it."""
        metadata = self._pyfunc.metadata
        example = self._example and form_of_example(*self._example)
        if self._hinted:
            self.why = "the signature comes from type hints"
        elif declared is None:
            loader = metadata.flavors["python_function"].get("loader_module", "")
            self._form = undeclared_form(loader, example)
            self.why = "MLflow's own checks are cheap for it"
        elif self._inputs.takes_arrays:
            self.why = "MLflow's own checks are cheap for it"
        elif _tells(metadata, "_is_type_hint_from_example"):
            self.why = "MLflow converts the input to the form of the example"
        elif example is not None and self._prefers(example):
            self._form = example
        else:
            self._prove(declared, inputs)
            samples = [sample.rows for sample in self._samples]
            choose_null_dtype(self._inputs, lambda batch: self.predict(batch, None), samples, inputs)
        if self._form is not Form.FRAME:
            self.path, self.why = "short", f"it takes {self._form.value}, as its input example"
            self._predict = self._short_path()
            like = self._example and self._example[1]
            self._build = lambda batch: shaped(self._form, batch, self._fields, like)

    def _prefers(self, form: Form) -> bool:
        """Whether the model answers its example as declared in the example's form, and differently as a DataFrame."""
        example = next((sample.rows.slice(0, 1) for sample in self._samples if sample.example), None)
        if form is Form.FRAME or example is None:
            return False
        predict = self._short_path()

        def in_frame() -> pa.RecordBatch:
            return self._outputs.read(self._pyfunc.predict(self._inputs.build(example)), 1)

        try:
            own = self._outputs.read(predict(shaped(form, example, self._fields), None), 1)
        except Exception:  # noqa: BLE001 - a model raises what it likes
            return False
        try:
            framed = in_frame()
            # One that answers by chance answers differently in any form.
            return not same_bits(own, framed) and same_bits(framed, in_frame())
        except Exception:  # noqa: BLE001 - a model raises what it likes
            return True

    def score(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> pa.RecordBatch:
        """Score one or more rows.

        Raises:
            WorkerFault: The rows can't be held, or the answer is not what is declared.
            BaseException: Whatever the model raises.
        """
        if batch.num_rows > 1:
            sharing = self._sharing_of(batch, params)
            if sharing.single or not sharing.shown:
                parts = [kept(self._score(batch.slice(place, 1), params)) for place in range(batch.num_rows)]
                return pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
        return self._score(batch, params)

    def _sharing_of(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> Sharing:
        """Return which rows may be in one call with some parameters: with others a model may do something else."""
        if self._form.single:
            return self.sharing
        key = repr(sorted(params.items())) if params else ""
        known = self._by_params.get(key)
        if known is None or not known.shown:
            known = self._try_on(batch, params)
            if len(self._by_params) >= _MOST_PARAMS:
                self._by_params.clear()
            self._by_params[key] = known
        return known

    def _score(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> pa.RecordBatch:
        return self._outputs.read(self.predict(batch, params), batch.num_rows)

    def _try_on(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> Sharing:
        """See on the first rows of a caller what none of the samples showed."""
        trusted = self._outputs.trusts_places
        with self._outputs.trying():
            try:
                sharing = self._shares([batch.slice(0, _TRIED_ROWS)], params)
            except RowsExchanged as exc:
                sharing = Sharing(shared=False, single=True, why=str(exc))
        self._outputs.trusts_places = trusted or (sharing.shared and self._outputs.has_doubles)
        return sharing

    @property
    def takes_array(self) -> bool:
        """Whether rows of doubles may be scored as an array."""
        return self.path == "array" and self._all_doubles and not self.sharing.single and self._params_schema is None

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

    def warm(self, params: dict[str, Any] | None = None, *, exact: bool = False) -> None:
        """Predict, so that the first caller does not pay for what the model does lazily, and see how it may be served.

        Args:
            params: The parameters' defaults.
            exact: Whether each row's answer must be the same to the bit, alone and among others.

        Raises:
            UnfitModel: Its answers are not what it declares, or belong to other rows, or it fails on its own example.
        """
        self._exact = exact
        if self._form.single:
            why = f"it takes {self._form.value}, as its input example"
            self.sharing = Sharing(shared=False, single=True, why=why)
        with self._outputs.trying():
            check_answers(lambda rows: (self.score if self._form.single else self._score)(rows, params), self._samples)
            if self._form.single:
                return
            try:
                self.sharing = self._shares([sample.rows for sample in self._samples], params)
            except RowsExchanged as exc:
                raise UnfitModel(str(exc)) from exc
        self._by_params[repr(sorted(params.items())) if params else ""] = self.sharing
        self._outputs.trusts_places = self.sharing.shared and self._outputs.has_doubles

    def _shares(self, samples: Sequence[pa.RecordBatch], params: dict[str, Any] | None) -> Sharing:
        return may_share(lambda rows: self._score(rows, params), samples, exact=self._exact)

    def observe(self, rows: pa.RecordBatch, params: dict[str, Any] | None) -> str | None:
        """Return the outputs that the model gives for some rows, as MLflow infers them: the JSON of a schema.

        Returns:
            None where MLflow can't infer them.
        """
        from mlflow.models import infer_signature

        try:
            outputs = infer_signature(model_output=self.predict(rows, params)).outputs
        except Exception:  # noqa: BLE001 - of what it does not know it raises this and that
            return None
        return None if outputs is None else str(outputs.to_json())

    def _input(self, batch: pa.RecordBatch) -> Any:
        if self._hinted:
            # A model with type hints takes a list with the values of its one column.
            return [bare(value) for value in self._inputs.values(batch)]
        data = self._build(batch)
        if self.path == "full" and self._form is Form.FRAME and not self._inputs.takes_arrays:
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

    def _prove(self, declared: Any, inputs: pa.Schema) -> None:
        """Take the shortest path that gives the same bits as the full one on sample rows."""
        shorter: list[tuple[str, _Predict, Callable[[pa.RecordBatch], Any]]] = []
        estimator = takes_array(self._pyfunc, inputs, _names(declared) or range(len(inputs)))
        if estimator is not None:
            shorter.append(("array", lambda data, _: estimator.predict(data), self._inputs.array))
        shorter.append(("short", self._short_path(), self._inputs.build))
        for name, predict, build in shorter:
            proven, self.why = self._same_as_full(name, predict, build)
            if proven:
                self.path, self._predict, self._build = name, predict, build
                return

    def _same_as_full(self, name: str, predict: _Predict, build: Callable[[pa.RecordBatch], Any]) -> tuple[bool, str]:
        """Tell whether a path gives the same bits as the full one, and why."""
        why = "not proven"
        for batch in (sample.rows for sample in self._samples):
            try:
                full_answer = self._outputs.read(self._pyfunc.predict(self._inputs.build(batch)), batch.num_rows)
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                why = f"the full path raises {type(exc).__name__} on sample rows"
                continue
            try:
                answer = self._outputs.read(predict(build(batch), None), batch.num_rows)
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                return False, f"the {name} path raises {type(exc).__name__} on sample rows"
            if same_bits(answer, full_answer):
                return True, "proven on sample rows"
            return False, f"the {name} path gives other answers on sample rows"
        return False, why

    def _find_samples(self, declared: Any, inputs: pa.Schema) -> list[Sample]:
        """Return rows to try the model with, its example first."""
        samples = []
        if self._example is not None:
            try:
                rows = example_batch(self._example[1], declared, inputs)
                samples += [Sample(rows, True)] if rows is not None and rows.num_rows else []
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                _say(f"the input example can't be used ({type(exc).__name__})")
        try:
            made = made_batch(inputs)
            samples += [Sample(made, False)] if made is not None else []
        except (TypeError, ValueError, pa.ArrowException) as exc:
            _say(f"no rows can be made for the signature ({type(exc).__name__})")
        return samples

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


def same_bits(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """Tell whether two batches are the same, to the bit."""
    return bool(one.serialize().equals(other.serialize()))


def _say(what: str) -> None:
    print(what, file=sys.stderr)  # noqa: T201 - the front logs what a worker prints
