"""One loaded model: rows in, declared outputs out, by the shortest way that gives the model's own answers."""

from __future__ import annotations

import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from prinz_enricher.ipc.faults import InvalidRows

from .example import InputForm, bare, example_batch, input_example, shaped, undeclared_form
from .model_inputs import InputBuilder
from .model_outputs import OutputReader
from .trial import RowsExchanged, Sample, Sharing, UnfitModel, check_answers, joined, kept, made_batch, may_share

_Predict = Callable[[Any, dict[str, Any] | None], Any]
_Build = Callable[[pa.RecordBatch], Any]

# Sets of parameters for which it is remembered which rows may be in one call.
_MOST_PARAMS = 64
# Rows of a caller's request that are scored alone as well, where no sample showed what several rows do.
_TRIED_ROWS = 4
# Of scikit-learn's own, what chooses columns by name, or runs the code of others.
_READ_NAMES = frozenset({"ColumnTransformer", "FunctionTransformer"})
# Modules whose objects, where they can't be called, are data.
_DATA = frozenset({"builtins", "numpy", "scipy"})


class LoadedModel:
    """A model that scores record batches.

    MLflow's schema enforcement costs about 30 µs a column for each call, and the front has checked the rows already. So
    the flavour's own predict is called on a frame with the exact dtypes (the short path), or an estimator's on the bare
    array of it (the array path), where sample rows prove that this gives the same bits as `PyFuncModel.predict` (the
    full path). `path` is `array`, `short` or `full`, and `why` says why; `outputs` is the schema of the scores. Where
    acceleration is wanted and proven, `path` is `accelerated`, and these ways are for rows with gaps alone.
    `warm` finds out which rows may be in one call (`sharing`).
    """

    def __init__(
        self,
        folder: str,
        inputs: pa.Schema,
        outputs: pa.Schema,
        observed: tuple[bool, Sequence[str]] | None = None,
        *,
        accelerate: bool = False,
    ) -> None:
        """Load a model from a folder with its MLmodel file; raises whatever its loader raises.

        The inputs are in the signature's order. Where the outputs are not the declared ones but those that were
        observed, `observed` has whether they have names, and which of them every row has.
        """
        import mlflow.pyfunc

        self._pyfunc = mlflow.pyfunc.load_model(folder)
        # MLflow warns on each call of what it says once at load; a log line for each call helps nobody.
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        signature = self._pyfunc.metadata.signature
        declared_in, declared_out = (signature.inputs, signature.outputs) if signature is not None else (None, None)
        if declared_in is not None and len(declared_in.inputs) != len(inputs):
            raise ValueError("the signature of the downloaded model is not the one that the registry shows")
        self._schema = inputs
        self._declared = declared_in
        self._all_doubles = all(type == pa.float64() for type in inputs.types)
        self.outputs = outputs
        self._inputs = InputBuilder(inputs, _names(declared_in), declared=declared_in is not None)
        named, required = observed or (False, ())
        if observed is None and declared_out is not None and declared_out.has_input_names():
            # Before MLflow 2.7 none was optional; tensors are not even now.
            named = True
            required = [str(spec.name) for spec in declared_out.inputs if getattr(spec, "required", True)]
        self._outputs = OutputReader(outputs, named=named, required=required)
        self._hinted = self._says("_is_signature_from_type_hint")
        self._params_schema = signature.params if signature is not None else None
        self._flavour: dict[str, Any] = self._pyfunc.metadata.flavors["python_function"]
        self._example = input_example(self._pyfunc, folder)
        self._form = InputForm.FRAME
        self.path, self.why = "full", "not proven"
        self.sharing = Sharing(shared=False, single=False, why="not tried", shown=False)
        self._exact = False
        self._by_params: dict[str, Sharing] = {}
        self._predict: _Predict = self._pyfunc.predict
        self._build: _Build = self._inputs.build
        self._samples = self._find_samples()
        self._is_array = False
        self.acceleration = ""
        """Whether the model is accelerated, and else why not; empty where that was not asked for."""
        with self._outputs.trying():
            self._choose_path()
            self._is_array = self.path == "array"
            if accelerate:
                self._accelerate()
        self._outputs.answers.forget()

    def _says(self, what: str) -> bool:
        # A private method of MLflow: before version 2.20 there were no type hints to ask for.
        return bool(getattr(self._pyfunc.metadata, what, bool)())

    def score(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> pa.RecordBatch:
        """Score one or more rows; raises WorkerFault, and whatever the model raises."""
        if batch.num_rows > 1:
            sharing = self._sharing_of(batch, params)
            if sharing.single or not sharing.shown:
                return joined([kept(self._score(batch.slice(place, 1), params)) for place in range(batch.num_rows)])
        return self._score(batch, params)

    def _score(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> pa.RecordBatch:
        return self._outputs.read(self.predict(batch, params), batch.num_rows)

    @property
    def takes_array(self) -> bool:
        """Whether rows of doubles may be scored as an array."""
        return self._is_array and self._all_doubles and not self.sharing.single and self._params_schema is None

    def score_array(self, rows: Any, params: dict[str, Any] | None) -> Any:
        """Score an array of shape (rows, columns) that the model may change; only where `takes_array`.

        The scores are an array of one double a row, where that is all that is declared and returned; else a batch.
        """
        result = self._call(rows, params)
        return result if self._outputs.is_bare(result, len(rows)) else self._outputs.read(result, len(rows))

    def predict(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> Any:
        """Return what the model returns for some rows."""
        data = self._build(batch)
        if self.path == "full" and not self._hinted and not self._inputs.takes_arrays:
            self._inputs.check_guesses(data)
        return self._call(data, params)

    def _call(self, data: Any, params: dict[str, Any] | None) -> Any:
        try:
            return self._predict(data, params)
        except Exception as exc:
            # MLflow's message shows the rows, so it is not passed on.
            if _is_of_enforcement(exc):
                raise InvalidRows("MLflow's own schema enforcement refuses the rows") from exc
            raise

    def warm(self, params: dict[str, Any] | None = None, *, exact: bool = False) -> None:
        """Try the model with sample rows and the parameters' defaults: how it may be served, and whether.

        The first caller so does not pay for what the model does lazily. With `exact`, each row's answer must be the
        same to the bit, alone and among others. Raises UnfitModel where answers are not what it declares, or belong to
        other rows, or it fails on its own example.
        """
        self._exact = exact
        if self._form.single:
            self.sharing = Sharing(shared=False, single=True, why=f"it takes {self._form.value}, as its input example")
        with self._outputs.trying():
            check_answers(lambda rows: (self.score if self._form.single else self._score)(rows, params), self._samples)
            if self._form.single:
                return
            try:
                self.sharing = self._try_sharing([sample.rows for sample in self._samples], params)
            except RowsExchanged as exc:
                raise UnfitModel(str(exc)) from exc
        self._by_params[_key(params)] = self.sharing
        self._outputs.trusts_places = self.sharing.shared and self._outputs.has_doubles

    def _try_sharing(self, samples: Sequence[pa.RecordBatch], params: dict[str, Any] | None) -> Sharing:
        return may_share(lambda rows: self._score(rows, params), samples, exact=self._exact)

    def _sharing_of(self, batch: pa.RecordBatch, params: dict[str, Any] | None) -> Sharing:
        """Return which rows may be in one call with some parameters: with others a model may do something else."""
        key = _key(params)
        sharing = self.sharing if self._form.single else self._by_params.get(key)
        if sharing is not None and (sharing.shown or self._form.single):
            return sharing
        # The first rows of a caller are tried where none of the samples showed it.
        trusted = self._outputs.trusts_places
        with self._outputs.trying():
            try:
                sharing = self._try_sharing([batch.slice(0, _TRIED_ROWS)], params)
            except RowsExchanged as exc:
                sharing = Sharing(shared=False, single=True, why=str(exc))
        self._outputs.trusts_places = trusted or (sharing.shared and self._outputs.has_doubles)
        if len(self._by_params) >= _MOST_PARAMS:
            self._by_params.clear()
        self._by_params[key] = sharing
        return sharing

    def observe(self, rows: pa.RecordBatch, params: dict[str, Any] | None) -> str | None:
        """Return the outputs for some rows as MLflow infers them: the JSON of a schema; None where it can't."""
        from mlflow.models import infer_signature

        try:
            outputs = infer_signature(model_output=self.predict(rows, params)).outputs
        except Exception:  # noqa: BLE001 - of what it does not know it raises this and that
            return None
        return None if outputs is None else str(outputs.to_json())

    def _find_samples(self) -> list[Sample]:
        """Return rows to try the model with, its example first."""
        samples = []
        if self._example is not None:
            try:
                rows = example_batch(self._example[1], self._declared, self._schema)
                samples += [Sample(rows, True)] if rows is not None and rows.num_rows else []
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                _log(f"the input example can't be used ({type(exc).__name__})")
        try:
            made = made_batch(self._schema)
            samples += [Sample(made, False)] if made is not None else []
        except (TypeError, ValueError, pa.ArrowException) as exc:
            _log(f"no rows can be made for the signature ({type(exc).__name__})")
        return samples

    def _choose_path(self) -> None:
        """Find out in what form the model takes its rows, and the shortest way to call it."""
        form = self._example and self._example[0]
        if self._hinted:
            # It takes a list with the values of its one column.
            self._build = lambda batch: [bare(value) for value in self._inputs.values(batch)]
            self.why = "the signature comes from type hints"
        elif self._declared is None or self._inputs.takes_arrays:
            if self._declared is None:
                self._form = undeclared_form(self._flavour.get("loader_module", ""), form)
            self.why = "MLflow's own checks are cheap for it"
        elif self._says("_is_type_hint_from_example"):
            self.why = "MLflow converts the input to the form of the example"
        elif form is not None and self._prefers(form):
            self._form = form
        else:
            self._prove()
            samples = [sample.rows for sample in self._samples]
            self._inputs.choose_null_dtypes(lambda batch: self.predict(batch, None), samples)
        if self._form is not InputForm.FRAME:
            self.path, self.why = "short", f"it takes {self._form.value}, as its input example"
            self._predict = self._short_path()
            self._build = lambda batch: self._in_form(self._form, batch)

    def _in_form(self, form: InputForm, batch: pa.RecordBatch) -> Any:
        return shaped(form, batch, self._schema, self._example and self._example[1])

    def _prefers(self, form: InputForm) -> bool:
        """Return whether the model answers its example as declared in this form, and in another way as a DataFrame."""
        example = next((sample.rows.slice(0, 1) for sample in self._samples if sample.example), None)
        if form is InputForm.FRAME or example is None:
            return False
        try:
            own = self._outputs.read(self._short_path()(self._in_form(form, example), None), 1)
        except Exception:  # noqa: BLE001 - a model raises what it likes
            return False
        try:
            framed = self._full_answer(example)
            # One that answers by chance answers differently in any form.
            return not _same_bits(own, framed) and _same_bits(framed, self._full_answer(example))
        except Exception:  # noqa: BLE001 - a model raises what it likes
            return True

    def _full_answer(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self._outputs.read(self._pyfunc.predict(self._inputs.build(batch)), batch.num_rows)

    def _prove(self) -> None:
        """Choose the shortest path that gives the same bits as the full one on sample rows."""
        shorter: list[tuple[str, _Predict, _Build]] = []
        if (estimator := self._plain_estimator()) is not None:
            shorter.append(("array", lambda data, _: estimator.predict(data), self._inputs.array))
        shorter.append(("short", self._short_path(), self._inputs.build))
        for name, predict, build in shorter:
            proven, self.why = self._same_as_full(name, predict, build)
            if proven:
                self.path, self._predict, self._build = name, predict, build
                return

    def _same_as_full(self, name: str, predict: _Predict, build: _Build) -> tuple[bool, str]:
        """Return whether a path gives the same bits as the full one, and why."""
        why = "not proven"
        for batch in (sample.rows for sample in self._samples):
            try:
                full_answer = self._full_answer(batch)
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                why = f"the full path raises {type(exc).__name__} on sample rows"
                continue
            try:
                answer = self._outputs.read(predict(build(batch), None), batch.num_rows)
            except Exception as exc:  # noqa: BLE001 - a model raises what it likes
                return False, f"the {name} path raises {type(exc).__name__} on sample rows"
            if _same_bits(answer, full_answer):
                return True, "proven on sample rows"
            return False, f"the {name} path gives other answers on sample rows"
        return False, why

    def _accelerate(self) -> None:
        """Have a graph of onnxruntime predict, where it is proven to give the model's answers."""
        from .acceleration import Graph, NotAccelerated, prove

        own, build, is_array = self._predict, self._build, self._is_array
        estimator: Any = getattr(self._pyfunc._model_impl, "sklearn_model", None)  # noqa: SLF001 - as below
        try:
            if self._flavour.get("loader_module") != "mlflow.sklearn" or not hasattr(estimator, "get_params"):
                raise NotAccelerated("it is not a model of scikit-learn")  # noqa: TRY301 - reported as any other reason
            if self._params_schema is not None or self._hinted or self._form is not InputForm.FRAME:
                raise NotAccelerated("it takes more than rows of columns")  # noqa: TRY301 - as above
            names = _names(self._declared) or range(len(self._schema))
            method = self._flavour.get("predict_fn", "predict")
            first = (lambda rows: estimator[:-1].transform(build(rows))) if hasattr(estimator, "steps") else None
            samples = [sample.rows for sample in self._samples]

            def own_answers(rows: pa.RecordBatch) -> Any:
                return own(build(rows), None)

            def own_probabilities(rows: pa.RecordBatch) -> Any:
                return estimator.predict_proba(build(rows))

            def proven(*, whole: bool) -> tuple[Graph, int]:
                form = is_array and self._all_doubles
                graph = Graph(estimator, method, self._schema, names, matrix=form, whole=whole)
                given = build if graph.matrix else _as_it_is
                return graph, prove(graph, own_answers, own_probabilities, given, first, estimator, samples)

            try:
                graph, count = proven(whole=False)
            except NotAccelerated as failure:
                if not any(map(pa.types.is_integer, self._schema.types)):
                    raise
                try:
                    graph, count = proven(whole=True)
                except NotAccelerated:
                    raise failure from None
        except NotAccelerated as exc:
            self.acceleration = f"not accelerated: {exc}"
            return
        except Exception as exc:  # noqa: BLE001 - whatever it is, the model is scored as it is
            self.acceleration = f"not accelerated: it can't be tried ({type(exc).__name__})"
            return

        def predict(rows: Any, params: dict[str, Any] | None) -> Any:
            answer = graph.score(rows)
            return own(rows if graph.matrix else build(rows), params) if answer is None else answer

        self._predict, self._build, self._is_array = predict, build if graph.matrix else _as_it_is, graph.matrix
        self.path, self.why = "accelerated", f"proven on {count} rows"
        self.acceleration = f"accelerated by onnxruntime, {self.why}"

    def _short_path(self) -> _Predict:
        predict = getattr(self._pyfunc._model_impl, self._flavour.get("predict_fn", "predict"))  # noqa: SLF001 - documented as a stable developer API
        taken = inspect.signature(predict).parameters.get("params")
        if taken is None or taken.kind is inspect.Parameter.VAR_KEYWORD:
            return lambda data, _: predict(data)
        schema = self._params_schema
        if schema is None:
            return lambda data, _: predict(data, params=None)
        from mlflow.models.utils import _enforce_params_schema

        return lambda data, params: predict(data, params=_enforce_params_schema(params, schema))

    def _plain_estimator(self) -> Any:
        """Return the estimator of a scikit-learn model that predicts the same from the bare array of its frame.

        An estimator of scikit-learn turns a frame of numbers of one type into an array, and compares the columns' names
        with those it was fitted with, each time anew. That costs several times as much as a small model's prediction.
        Here the names are compared once.
        """
        if {*self._schema.types} not in ({pa.float64()}, {pa.float32()}):
            return None
        flavour = self._flavour
        if flavour.get("loader_module") != "mlflow.sklearn" or flavour.get("predict_fn", "predict") != "predict":
            return None
        estimator = getattr(self._pyfunc._model_impl, "sklearn_model", None)  # noqa: SLF001 - as above
        if not hasattr(estimator, "get_params") or not _is_plain(estimator):
            return None
        fitted = getattr(estimator, "feature_names_in_", None)
        if fitted is not None and list(fitted) != list(_names(self._declared) or range(len(self._schema))):
            return None
        # The names are compared by now.
        warnings.filterwarnings("ignore", message="X does not have valid feature names")
        return estimator


def _is_plain(value: Any) -> bool:
    """Return whether an estimator, or a parameter of one, is scikit-learn's own or plain data, and reads no names."""
    if isinstance(value, list | tuple | set | frozenset):
        # Such as the steps of a pipeline.
        return all(_is_plain(one) for one in value)
    if isinstance(value, dict):
        return all(_is_plain(one) for one in (*value, *value.values()))
    if isinstance(value, np.ndarray):
        return value.dtype != object or all(_is_plain(one) for one in value.flat)
    kind = type(value)
    if not kind.__module__.startswith("sklearn."):
        return value is None or (kind.__module__.partition(".")[0] in _DATA and not callable(value))
    if not hasattr(value, "get_params"):
        return True
    fitted = vars(value).values()
    # Code that was hung on an estimator takes the place of its own.
    if kind.__name__ in _READ_NAMES or any(map(inspect.isroutine, fitted)):
        return False
    # What it was fitted to can hold others than its parameters: a search keeps the best one of its grid.
    return all(map(_is_plain, (*value.get_params(deep=False).values(), *filter(_holds_estimators, fitted))))


def _as_it_is(rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows


def _holds_estimators(value: Any) -> bool:
    """Return whether what an estimator keeps is an estimator, or some of them."""
    if isinstance(value, dict):
        return any(_holds_estimators(one) for one in value.values())
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        return any(_holds_estimators(one) for one in (value.flat if isinstance(value, np.ndarray) else value))
    return hasattr(value, "get_params") or hasattr(value, "predict") or hasattr(value, "transform")


def _is_of_enforcement(exc: Exception) -> bool:
    """Return whether MLflow's schema enforcement raised an exception; MLflow 2 does not say so in it."""
    from mlflow.exceptions import MlflowException

    return isinstance(exc, MlflowException) and (
        getattr(exc, "error_class", None) == "SCHEMA_ENFORCEMENT_FAILED"
        or any(frame.f_code.co_name == "_enforce_schema" for frame, _ in traceback.walk_tb(exc.__traceback__))
    )


def _names(declared: Any) -> list[str | int] | None:
    """Return the names of declared inputs; None where they have none."""
    if declared is None:
        return []
    return list(declared.input_names()) if declared.has_input_names() else None


def _same_bits(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    return bool(one.serialize().equals(other.serialize()))


def _key(params: dict[str, Any] | None) -> str:
    return repr(sorted(params.items())) if params else ""


def _log(what: str) -> None:
    print(what, file=sys.stderr)  # noqa: T201 - the front logs what a worker prints
