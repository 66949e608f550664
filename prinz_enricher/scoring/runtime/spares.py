"""What workers are forked from: processes that have imported what models need, one for each interpreter in use."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from prinz_enricher.provision.child_process import ForkFailed, ForkServer
from prinz_enricher.scoring.ports import Target

IMPORTS = (
    *("numpy", "pyarrow", "pandas", "mlflow.pyfunc"),
    *("prinz_enricher.worker.serving", "prinz_enricher.worker.loaded_model"),
)
"""What every worker imports."""

IMPORTS_OF = {
    "mlflow.sklearn": (
        *("mlflow.sklearn", "sklearn.linear_model", "sklearn.ensemble", "sklearn.tree", "sklearn.pipeline"),
        *("sklearn.compose", "sklearn.preprocessing", "sklearn.impute", "skops.io"),
    ),
    "mlflow.xgboost": ("mlflow.xgboost", "xgboost"),
    "mlflow.lightgbm": ("mlflow.lightgbm", "lightgbm"),
    "mlflow.catboost": ("mlflow.catboost", "catboost"),
    "mlflow.statsmodels": ("mlflow.statsmodels", "statsmodels.api"),
}
"""What models need besides, by the module that loads them: libraries whose import starts no thread that a fork would
lose, as that of onnxruntime does. Workers import others by themselves."""

_NICE = 10
_MAX_BYTES = 2 << 30
"""What one of these processes may hold; it runs nothing that grows."""

_MAX_AVOIDED = 1000

Variables = Callable[[Path, Path | None], dict[str, str]]
"""Makes the environment variables of a process, from its private folder, and the folder of the worker's code if its
interpreter is not this one."""


class Spares:
    """Keeps a spare of the service's own interpreter, and of others while workers use them."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self._lock = threading.Lock()
        self._own = ForkServer("spare", IMPORTS, lambda folder: variables(folder, None), nice=_NICE)
        self._others: dict[Path, ForkServer] = {}
        self._users: Counter[Path] = Counter()
        self._avoided: set[object] = set()
        self._dropped = 0

    def expect(self, loaders: Iterable[str]) -> None:
        """Have a spare that has imported what models with these loaders need."""
        self._own.preload([module for loader in sorted(set(loaders)) for module in IMPORTS_OF.get(loader, ())])
        if not self._dropped:
            self._start()

    def acquire(self, target: Target, python: Path | None, code: Path | None) -> ForkServer | None:
        """Return what a worker is to be forked from, None if it is to be started by itself; `release` it at its end.

        Its interpreter is `python`, None for this one, and `code` the folder of the worker's code for another one.
        """
        with self._lock:
            if python is not None:
                self._users[python] += 1
                if python not in self._others:
                    modules = [*IMPORTS, *IMPORTS_OF.get(target.loader, ())]
                    self._others[python] = ForkServer(
                        "spare", modules, lambda folder: self._variables(folder, code), python=python
                    )
            if self._dropped or target.key in self._avoided:
                return None
            return self._own if python is None else self._others[python]

    def release(self, python: Path | None) -> None:
        """Note that a worker of an interpreter has ended: with the last one its spare ends too."""
        if python is None:
            return
        with self._lock:
            self._users[python] -= 1
            if self._users[python]:
                return
            del self._users[python]
            ended = self._others.pop(python)
        ended.close()

    def avoid(self, target: Target) -> None:
        """Have the workers of a version started by themselves: a forked one died while loading."""
        with self._lock:
            if len(self._avoided) < _MAX_AVOIDED:
                self._avoided.add(target.key)

    def memory(self) -> int:
        """Return the bytes of memory that the spares hold, most of which their forks share."""
        return sum(server.memory() for server in self._servers())

    def drop(self) -> bool:
        """End the spares when memory is short; returns whether there were any."""
        held = self.memory()
        if held:
            self._dropped = held
            for server in self._servers():
                server.stop()
        return held > 0

    def restore(self, free: int) -> None:
        """Start the spares that have ended; those that were dropped once twice their bytes of memory are free."""
        if self._dropped and free > 2 * self._dropped:
            self._dropped = 0
            self._start()
        for server in self._servers():
            server.restart_if_needed(_MAX_BYTES)

    def close(self) -> None:
        """End the spares for good; their forks go on."""
        for server in self._servers():
            server.close()

    def _start(self) -> None:
        # Without it workers are started by themselves.
        with contextlib.suppress(OSError, ForkFailed):
            self._own.start()

    def _servers(self) -> list[ForkServer]:
        with self._lock:
            return [self._own, *self._others.values()]
