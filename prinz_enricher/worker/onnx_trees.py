"""scikit-learn's trees and forests as ONNX, in double precision; skl2onnx makes single precision of them.

A tree of scikit-learn compares a feature, as a 32-bit float, with a threshold in 64 bits, and a forest adds the leaves
up in 64 (`_tree.pyx`, `_forest.py`). So does `TreeEnsemble` of ai.onnx.ml 5 on doubles that were 32-bit floats before.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import TensorProto, numpy_helper
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType
from sklearn import ensemble, tree

ML_OPSET: Final = 5
"""Version of ai.onnx.ml that a converted model has: the first with `TreeEnsemble`, which skl2onnx does not know yet."""

_SUM, _LESS_OR_EQUAL = 1, 0

REGRESSORS: Final = (
    *(tree.DecisionTreeRegressor, tree.ExtraTreeRegressor, ensemble.RandomForestRegressor),
    *(ensemble.ExtraTreesRegressor, ensemble.GradientBoostingRegressor),
)
CLASSIFIERS: Final = (
    *(tree.DecisionTreeClassifier, tree.ExtraTreeClassifier),
    *(ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier),
)


def trees_of(model: Any) -> list[Any]:
    """Return the fitted trees of a tree or a forest."""
    if hasattr(model, "tree_"):
        return [model.tree_]
    return [one.tree_ for one in np.ravel(np.asarray(model.estimators_, dtype=object))]


def register() -> None:
    """Have skl2onnx convert trees and forests by this module."""
    for kind in REGRESSORS:
        update_registered_converter(kind, f"Prinz{kind.__name__}", _regressor_shape, _convert_regressor, overwrite=True)
    options = {"zipmap": [False], "nocl": [True, False], "output_class_labels": [False]}
    for kind in CLASSIFIERS:
        update_registered_converter(
            kind, f"Prinz{kind.__name__}", _classifier_shape, _convert_classifier, overwrite=True, options=options
        )


def _regressor_shape(operator: Any) -> None:
    operator.outputs[0].type = DoubleTensorType([None, 1])


def _classifier_shape(operator: Any) -> None:
    classes = operator.raw_operator.classes_
    operator.outputs[0].type = StringTensorType([None]) if classes.dtype.kind in "UO" else Int64TensorType([None])
    operator.outputs[1].type = DoubleTensorType([None, len(classes)])


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    trees = trees_of(model)
    boosted = isinstance(model, ensemble.GradientBoostingRegressor)
    factor = model.learning_rate if boosted else 1 / len(trees)
    leaves = [[one.value[:, 0, 0] * factor] for one in trees]
    total = _add_ensemble(scope, operator, container, trees, leaves)
    base = float(model._raw_predict_init(np.zeros((1, model.n_features_in_), np.float32))[0, 0]) if boosted else 0.0  # noqa: SLF001 - what it begins with, by whatever estimator
    _add(scope, container, "Add", [total, _constant(scope, container, [base])], operator.outputs[0].full_name)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    model = operator.raw_operator
    trees = trees_of(model)
    shares = [_shares(one.value[:, 0, :]) for one in trees]
    total = _add_ensemble(scope, operator, container, trees, [list(one.T) for one in shares])
    label, probabilities = (one.full_name for one in operator.outputs)
    count = _constant(scope, container, [float(len(trees))])
    _add(scope, container, "Div", [total, count], probabilities)
    best = _add(scope, container, "ArgMax", [probabilities], axis=1, keepdims=0)
    classes = scope.get_unique_variable_name("classes")
    texts = model.classes_.dtype.kind in "UO"
    values = [str(one).encode() for one in model.classes_] if texts else [int(one) for one in model.classes_]
    container.add_initializer(classes, TensorProto.STRING if texts else TensorProto.INT64, [len(values)], values)
    _add(scope, container, "Gather", [classes, best], label)


def _shares(values: Any) -> Any:
    """Return the share of each class in each node; before scikit-learn 1.3 trees had weights."""
    totals = values.sum(axis=1, keepdims=True)
    return values if np.allclose(totals, 1.0) else values / totals


def _add_ensemble(scope: Any, operator: Any, container: Any, trees: list[Any], leaves: list[list[Any]]) -> str:
    """Add the sum of trees, whose leaves have values for each of some targets; returns its name."""
    rounded = _add(scope, container, "Cast", [operator.inputs[0].full_name], to=TensorProto.FLOAT)
    doubles = _add(scope, container, "Cast", [rounded], to=TensorProto.DOUBLE)
    roots: list[int] = []
    features: list[int] = []
    splits: list[float] = []
    branches: dict[str, list[int]] = {name: [] for name in ("true", "trueleafs", "false", "falseleafs")}
    targets: list[int] = []
    weights: list[float] = []
    for one, of_targets in zip(trees, leaves, strict=True):
        for target, values in enumerate(of_targets):
            inner = np.flatnonzero(one.children_left >= 0)
            # A tree without a split is one whose branches are the same leaf.
            places = {int(node): len(features) + place for place, node in enumerate(inner)}
            leaf = {int(node): len(targets) + place for place, node in enumerate(np.flatnonzero(one.children_left < 0))}
            targets += [target] * len(leaf)
            weights += [float(values[node]) for node in leaf]
            roots.append(len(features))
            nodes = [
                (int(one.feature[node]), float(one.threshold[node]), one.children_left[node], one.children_right[node])
                for node in inner
            ] or [(0, 0.0, 0, 0)]
            for feature, split, *children in nodes:
                features.append(feature)
                splits.append(split)
                for name, child in zip(("true", "false"), children, strict=True):
                    is_leaf = int(child) in leaf
                    branches[name].append(leaf[int(child)] if is_leaf else places[int(child)])
                    branches[f"{name}leafs"].append(int(is_leaf))
    return _add(
        *(scope, container, "TreeEnsemble", [doubles]),
        op_domain="ai.onnx.ml",
        op_version=1,
        tree_roots=roots,
        nodes_featureids=features,
        nodes_splits=numpy_helper.from_array(np.array(splits)),
        nodes_modes=numpy_helper.from_array(np.full(len(features), _LESS_OR_EQUAL, np.uint8)),
        nodes_truenodeids=branches["true"],
        nodes_trueleafs=branches["trueleafs"],
        nodes_falsenodeids=branches["false"],
        nodes_falseleafs=branches["falseleafs"],
        leaf_targetids=targets,
        leaf_weights=numpy_helper.from_array(np.array(weights)),
        n_targets=len(leaves[0]),
        aggregate_function=_SUM,
    )


def _constant(scope: Any, container: Any, values: list[float]) -> str:
    name: str = scope.get_unique_variable_name("constant")
    container.add_initializer(name, TensorProto.DOUBLE, [1, len(values)], values)
    return name


def _add(scope: Any, container: Any, kind: str, inputs: list[str], output: str = "", **more: Any) -> str:
    """Add a node; returns the name of its output."""
    output = output or scope.get_unique_variable_name(kind.lower())
    more.setdefault("op_version", 13)
    container.add_node(kind, inputs, [output], name=scope.get_unique_operator_name(kind), **more)
    return output
