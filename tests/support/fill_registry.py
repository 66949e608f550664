"""Writes many models into the store of an MLflow server, by MLflow's own store and so in no time.

`python -m tests.support.fill_registry STORE MODELS MLMODEL_FILE`: each model has one version, whose files are in a
folder `model-NNNN` of the store's artifacts. It is a program of its own since it imports MLflow.
"""

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Fill the store."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    store, count, mlmodel = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
    registry: Any = SqlAlchemyStore(f"sqlite:///{store / 'mlflow.db'}")  # type: ignore[no-untyped-call]  # MLflow's
    for number in range(count):
        name = f"model-{number:04}"
        folder = store / "mlartifacts" / name
        folder.mkdir(parents=True)
        (folder / "MLmodel").write_bytes(mlmodel)
        registry.create_registered_model(name)
        registry.create_model_version(name, f"mlflow-artifacts:/{name}")


if __name__ == "__main__":
    main()
