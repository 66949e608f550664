"""Acceleration: an estimator of scikit-learn as a graph that onnxruntime computes, proven to give the same answers.

A pipeline of scikit-learn takes milliseconds for one row, of which its arithmetic is a thousandth. Only estimators are
converted whose rules onnxruntime has in double precision, and only rows go to the graph of which every value is there
and finite: what scikit-learn refuses, or fills in by rules of its own, it is asked for as ever.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

TOLERANCE: Final = 1e-9
"""How far apart two doubles may be, relative to the greater, that count as the same answer."""

_ROWS: Final = 2_000
_SPLITS: Final = 200
_SEED: Final = 20_26
_NUMBERS: Final = (0.0, 0.5, -0.5, 1.0, -1.0, 1e-3, 3.0, -7.25, 100.0, -1e3, 1e5)
_TEXTS: Final = ("", "ü", "no category of the training")
_OPSET: Final = 21
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_MOST_EXACT: Final = 2**53
_WHOLE: Final = (pa.int32(), pa.int64())
_STANDARD_OPERATORS: Final = {"LinearClassifier", "LinearRegressor", "Scaler"}
"""Operators that onnxruntime has in single precision alone: the same is made of standard ones, in double."""

_KINDS: Final = {
    "sklearn.pipeline": ("Pipeline",),
    "sklearn.compose._column_transformer": ("ColumnTransformer",),
    "sklearn.preprocessing._data": ("StandardScaler", "MinMaxScaler", "MaxAbsScaler", "RobustScaler"),
    "sklearn.preprocessing._encoders": ("OneHotEncoder",),
    "sklearn.impute._base": ("SimpleImputer",),
    "sklearn.linear_model": (
        *("LinearRegression", "Ridge", "RidgeCV", "Lasso", "LassoCV", "ElasticNet", "ElasticNetCV"),
        *("LogisticRegression", "LogisticRegressionCV"),
    ),
    "sklearn.neural_network": ("MLPRegressor", "MLPClassifier"),
    "sklearn.tree": (
        *("DecisionTreeRegressor", "DecisionTreeClassifier", "ExtraTreeRegressor", "ExtraTreeClassifier"),
    ),
    "sklearn.ensemble": (
        *("RandomForestRegressor", "RandomForestClassifier", "ExtraTreesRegressor", "ExtraTreesClassifier"),
        *("GradientBoostingRegressor",),
    ),
}
"""What is converted, by the module that has it."""


class NotAccelerated(Exception):
    """The model is scored as it is; the message says why."""


class Graph:
    """An estimator as a graph, for rows of a schema whose columns it knows by `names`.

    With `matrix` all columns are doubles, and the estimator takes them as one array. With `whole` the graph gets whole
    numbers as they are, else as doubles, as most estimators have them. Raises NotAccelerated.
    """

    def __init__(
        self, estimator: Any, method: str, schema: pa.Schema, names: Sequence[Any], *, matrix: bool, whole: bool = False
    ) -> None:
        if unknown := next((type(one).__name__ for one in parts_of(estimator) if not _is_known(one)), None):
            raise NotAccelerated(f"{unknown} is not converted")
        if method not in ("predict", "predict_proba"):
            raise NotAccelerated(f"{method} is not converted")
        classes = getattr(estimator, "classes_", None)
        if classes is not None and not _are_labels(classes):
            raise NotAccelerated("its classes are neither whole numbers nor texts")
        try:
            session, self._output = _convert(estimator, method, schema, names, matrix=matrix, whole=whole)
        except NotAccelerated:
            raise
        except ImportError as exc:
            raise NotAccelerated(f"{exc.name} is not installed where it runs") from exc
        except Exception as exc:
            raise NotAccelerated(f"it can't be converted ({type(exc).__name__})") from exc
        self._run: Callable[..., Any] = session.run
        # In the order of the columns; names that are no identifiers are changed.
        self._inputs = [one.name for one in session.get_inputs()]
        if not matrix and len(self._inputs) != len(schema):
            raise NotAccelerated("some of its columns are not used")
        self.schema = schema
        self._whole = whole
        self.matrix = matrix
        self._probabilities = session.get_outputs()[-1].name
        self._is_regression = classes is None
        self._labels = classes.dtype if classes is not None and method == "predict" else None

    def score(self, rows: Any) -> Any:
        """Return what the estimator returns for an array or a batch of rows; None where these are not for the graph."""
        feeds = self._feeds_of(rows)
        if feeds is None:
            return None
        try:
            (answer,) = self._run([self._output], feeds)
        except Exception:  # noqa: BLE001 - whatever onnxruntime has against them, the model decides
            return None
        if self._labels is not None:
            return answer.astype(self._labels, copy=False)
        return answer.ravel() if self._is_regression and answer.shape[-1] == 1 else answer

    def probabilities(self, rows: Any) -> Any:
        """Return what a classifier's `predict_proba` returns."""
        return self._run([self._probabilities], self._feeds_of(rows))[0]

    def _feeds_of(self, rows: Any) -> dict[str, Any] | None:
        if self.matrix:
            return {self._inputs[0]: rows} if _is_plain(rows) else None
        if rows.schema != self.schema or any(column.null_count for column in rows.columns):
            return None
        columns = [_values(column) for column in rows.columns]
        if not self._whole and any(one.dtype.kind == "i" and (np.abs(one) > _MOST_EXACT).any() for one in columns):
            return None
        given = np.int64 if self._whole else np.float64
        columns = [one.astype(given, copy=False) if one.dtype.kind == "i" else one for one in columns]
        if not all(_is_plain(column) for column in columns if column.dtype.kind == "f"):
            return None
        return {name: column.reshape(-1, 1) for name, column in zip(self._inputs, columns, strict=True)}


def _are_labels(classes: Any) -> bool:
    """Return whether ONNX has classes as they are: those of several outputs are lists, and fractions would be cut."""
    if not isinstance(classes, np.ndarray):
        return False
    if classes.dtype.kind == "f":
        return bool((classes == np.floor(classes)).all())
    return classes.dtype.kind in "iubU" or (classes.dtype.kind == "O" and all(isinstance(one, str) for one in classes))


def _is_plain(values: Any) -> bool:
    """Return whether all numbers are ones that no estimator refuses: those that are finite as 32-bit floats."""
    return bool((np.abs(values) < _FLOAT32_MAX).all())


def _values(column: pa.Array) -> Any:
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=object)
    return column.to_numpy(zero_copy_only=False)


def parts_of(estimator: Any) -> Iterator[Any]:
    """Yield an estimator and those that it is made of, as they were fitted."""
    yield estimator
    steps = [one for _, one in getattr(estimator, "steps", ())]
    steps += [one for _, one, _ in getattr(estimator, "transformers_", ())]
    for one in steps:
        if not (one is None or isinstance(one, str)):
            yield from parts_of(one)


def _is_known(estimator: Any) -> bool:
    """Return whether an estimator is one of those that are converted: no class derived from it, no code hung on it."""
    kind = type(estimator)
    if any(map(inspect.isroutine, vars(estimator).values())) or getattr(estimator, "_infrequent_enabled", False):
        return False
    return any(
        kind.__name__ in names and (kind.__module__ == module or kind.__module__.startswith(f"{module}."))
        for module, names in _KINDS.items()
    )


def _convert(
    estimator: Any, method: str, schema: pa.Schema, names: Sequence[Any], *, matrix: bool, whole: bool
) -> tuple[Any, str]:
    """Return a session of onnxruntime, and the name of the output that is wanted."""
    runtime = importlib.import_module("onnxruntime")
    skl2onnx = importlib.import_module("skl2onnx")
    types = importlib.import_module("skl2onnx.common.data_types")

    from .onnx_trees import ML_OPSET, register

    register()
    _register_imputer()
    if matrix:
        inputs = [("rows", types.DoubleTensorType([None, len(schema)]))]
    else:
        kinds = {pa.float64(): types.DoubleTensorType, pa.string(): types.StringTensorType}
        kinds |= dict.fromkeys(_WHOLE, types.Int64TensorType if whole else types.DoubleTensorType)
        if other := next((one for one in schema.types if one not in kinds), None):
            raise NotAccelerated(f"columns of the Arrow type {other} are not converted")
        inputs = [(str(name), kinds[field.type]([None, 1])) for name, field in zip(names, schema, strict=True)]
    classifies = hasattr(estimator, "classes_")
    model = skl2onnx.to_onnx(
        estimator,
        initial_types=inputs,
        target_opset={"": _OPSET, "ai.onnx.ml": 3},
        options={"zipmap": False} if classifies else None,
        black_op=_STANDARD_OPERATORS,
    )
    for one in model.opset_import:
        if one.domain == "ai.onnx.ml":
            one.version = ML_OPSET
    options = runtime.SessionOptions()
    # As many threads as a worker has for anything else, and sums in one order.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [one.name for one in session.get_outputs()]
    return session, outputs[1 if classifies and method == "predict_proba" else 0]


def _register_imputer() -> None:
    """Have skl2onnx leave out what fills gaps: no row with a gap comes to a graph."""
    registration = importlib.import_module("skl2onnx.common._registration")
    skl2onnx = importlib.import_module("skl2onnx")
    sklearn_impute = importlib.import_module("sklearn.impute")
    alias = "SklearnSimpleImputer"
    known = registration.get_converter(alias)

    def convert(scope: Any, operator: Any, container: Any) -> None:
        imputer, source = operator.raw_operator, operator.inputs[0]
        marks = imputer.missing_values is None or imputer.missing_values != imputer.missing_values
        if not marks or imputer.add_indicator or any(one != one for one in imputer.statistics_):  # noqa: PLR0124 - NaN
            known(scope, operator, container)
            return
        container.add_node(
            "Identity", [source.full_name], [operator.outputs[0].full_name], name=scope.get_unique_operator_name("same")
        )

    if not getattr(known, "is_ours", False):
        convert.is_ours = True  # type: ignore[attr-defined]
        shapes = registration.get_shape_calculator(alias)
        skl2onnx.update_registered_converter(sklearn_impute.SimpleImputer, alias, shapes, convert, overwrite=True)


def prove(
    graph: Graph,
    own: Callable[[pa.RecordBatch], Any],
    likelihood: Callable[[pa.RecordBatch], Any],
    build: Callable[[pa.RecordBatch], Any],
    transform: Callable[[pa.RecordBatch], Any] | None,
    estimator: Any,
    samples: Sequence[pa.RecordBatch],
) -> int:
    """Compare a graph with its estimator on sample, generated and split rows; returns how many there were.

    `own` returns what the estimator returns for a batch, `likelihood` the probabilities of a classifier, `build` what
    the graph takes, and `transform` what the last step of a pipeline gets; None for one that gets the rows. Raises
    NotAccelerated where answers differ, or the estimator raises.
    """
    if not samples:
        raise NotAccelerated("there are no sample rows to prove it with")
    proven = 0
    made = _generated(estimator, samples, graph.schema)
    for number, batch in enumerate([*samples, made, *_at_splits(estimator, transform, made)]):
        try:
            expected = np.asarray(own(batch))
        except Exception as exc:
            raise NotAccelerated(f"the model raises {type(exc).__name__} on generated rows") from exc
        answer = graph.score(build(batch))
        if answer is None:
            if number < len(samples):
                # With gaps, which the graph does not get.
                continue
            raise NotAccelerated("onnxruntime fails on generated rows")
        if not _same_answers(np.asarray(answer), expected):
            raise NotAccelerated("it gives other answers")
        if hasattr(estimator, "classes_") and not np.allclose(
            # Labels alone would not show a graph that is nearly right.
            *(graph.probabilities(build(batch)), likelihood(batch)),
            rtol=0.0,
            atol=TOLERANCE,
        ):
            raise NotAccelerated("it gives other probabilities")
        proven += batch.num_rows
    return proven


def _same_answers(one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype.kind != other.dtype.kind:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    near = np.abs(one - other) <= TOLERANCE * np.maximum(np.abs(one), np.abs(other))
    # Rows of several numbers are probabilities, of which very small ones are rounding.
    return bool((near | ((one.ndim > 1) & (np.abs(one - other) <= TOLERANCE))).all())


def _generated(estimator: Any, samples: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows of values as the samples have them, of categories that were learnt and others, and of all sizes."""
    chance = np.random.default_rng(_SEED)
    learnt = [
        value for part in parts_of(estimator) for one in getattr(part, "categories_", ()) for value in one.tolist()
    ]
    arrays = []
    for field in schema:
        held = [one.column(field.name) for one in samples if field.name in one.schema.names]
        seen = [value for column in held for value in column.to_pylist() if value is not None]
        if pa.types.is_string(field.type):
            pool = [*seen, *_TEXTS, *(value for value in learnt if isinstance(value, str))]
        else:
            numbers = [value for value in learnt if isinstance(value, int | float)]
            pool = [*seen, *_NUMBERS, *numbers, *(value * 1.5 for value in seen)]
            # A gap, or a number that no graph gets, would keep all rows from it.
            most = _FLOAT32_MAX if field.type == pa.float64() else np.iinfo(field.type.to_pandas_dtype()).max
            pool = [value for value in pool if abs(value) < most]
            if pa.types.is_integer(field.type):
                pool = [int(value) for value in pool]
        arrays.append(pa.array([pool[one] for one in chance.integers(len(pool), size=_ROWS)], field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _at_splits(
    estimator: Any, transform: Callable[[pa.RecordBatch], Any] | None, sample: pa.RecordBatch
) -> Iterator[pa.RecordBatch]:
    """Yield rows on both sides of splits of the last step's trees: with two doubles between which it decides otherwise.

    They are found by halving: along one column, the feature as a 32-bit float is at most the threshold, or above it.
    """
    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    if not (hasattr(last, "tree_") or hasattr(last, "estimators_")):
        return
    from .onnx_trees import trees_of

    splits = sorted(
        {
            (int(f), float(t))
            for one in trees_of(last)
            for f, t in zip(one.feature, one.threshold, strict=True)
            if f >= 0
        }
    )
    chance = np.random.default_rng(_SEED)
    if len(splits) > _SPLITS:
        splits = [splits[one] for one in sorted(chance.choice(len(splits), _SPLITS, replace=False))]
    base = sample.slice(0, 1)

    def features(column: int, values: Any) -> tuple[pa.RecordBatch, Any]:
        rows = base.take(pa.array(np.zeros(len(values), np.int64)))
        rows = rows.set_column(column, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))
        given = np.column_stack([_values(one) for one in rows.columns]) if transform is None else transform(rows)
        dense = given.toarray() if hasattr(given, "toarray") else np.asarray(given)
        return rows, dense.astype(np.float32)

    far = np.concatenate([-np.logspace(9, -9, 19), [0.0], np.logspace(-9, 9, 19)])
    for column, field in enumerate(base.schema):
        if field.type != pa.float64():
            continue
        _, along = features(column, far)
        moved = {int(one) for one in np.flatnonzero((along != along[0]).any(axis=0))}
        own = [(feature, threshold) for feature, threshold in splits if feature in moved]
        own = [(f, t) for f, t in own if (along[0, f] <= t) != (along[-1, f] <= t)]
        if not own:
            continue
        which = np.array([feature for feature, _ in own])
        at = np.array([threshold for _, threshold in own])
        below = along[0, which] <= at
        low, high = np.full(len(own), far[0]), np.full(len(own), far[-1])
        for _ in range(80):
            middle = low + (high - low) / 2
            same = (features(column, middle)[1][np.arange(len(own)), which] <= at) == below
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        yield features(column, low)[0]
        yield features(column, high)[0]
