"""Builds the modules for the JVM and runs their tests against real services: `make test-nussknacker`.

The tests start `prinz-enricher serve` themselves, stop it and start it again; here they get a registry with models, and
what Python tells that they compare with.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np

from prinz_enricher.batch.primitive_arrays import decimal_double
from prinz_enricher.registry import PrivateServer, orphan_watchdog
from prinz_enricher.security.tokens import token_digest
from tests.support.certificates import Authority, self_signed
from tests.support.own_service import register
from tests.support.touchy import register_touchy

ROOT = Path(__file__).resolve().parents[2]
DECIMALS = 4000
"""Doubles by chance whose decimals are told; each power of two comes as well."""

_MOVING = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])

class Times(mlflow.pyfunc.PythonModel):
    def __init__(self, factor, column):
        self.factor, self.column = factor, column

    def predict(self, context, model_input, params=None):
        return model_input[self.column] * self.factor

for factor, column in ((2, "n"), (3, "n"), (3, "m")):
    signature = ModelSignature(Schema([ColSpec("long", column)]), Schema([ColSpec("long", "product")]))
    mlflow.pyfunc.log_model(
        name="times", python_model=Times(factor, column), signature=signature, pip_requirements=["mlflow"],
        registered_model_name="moving",
    )
mlflow.MlflowClient().set_registered_model_alias("moving", "champion", "1")
"""

_TYPED = """
import sys
import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property

mlflow.set_tracking_uri(sys.argv[1])

class Mirror(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

scalars = ("boolean", "integer", "long", "float", "double", "string", "binary", "datetime")
columns = [ColSpec(kind, f"a {kind}") for kind in scalars]
columns += [
    ColSpec(Array("long"), "series"),
    ColSpec(Object([Property("id", "long"), Property("note", "string", required=False)]), "thing"),
    ColSpec(Map("double"), "ratings"),
    ColSpec(Array(Object([Property("at", "datetime")])), "things"),
    ColSpec(AnyType(), "extra", required=False),
    ColSpec("long", "perhaps", required=False),
]
few = [ColSpec("long", "n"), ColSpec("datetime", "at"), ColSpec("string", "note", required=False)]
tensors = [
    TensorSpec(np.dtype(np.float64), (-1, 2, 3), "pixels"),
    TensorSpec(np.dtype(np.int64), (-1,), "count"),
    TensorSpec(np.dtype(np.uint8), (-1, 4), "small"),
]
odd = [ColSpec("long", 'a.b {"${HOME}"}')]
models = {"every-type": columns, "some-tensors": tensors, "mirror": few, 'odd "${HOME}" }': odd}
for name, schema in ((name, Schema(fields)) for name, fields in models.items()):
    mlflow.pyfunc.log_model(
        name="mirror", python_model=Mirror(), signature=ModelSignature(schema, schema), pip_requirements=["mlflow"],
        registered_model_name=name,
    )
"""


def decimals() -> Iterator[str]:
    """Yield decimals, each with the bits of the double that the service takes for it, or `refused`."""
    chance = random.Random(7)  # noqa: S311 - no secret
    doubles = [2.0**power for power in range(-1074, 1024)]
    doubles += [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(DECIMALS)]
    # Between two decimals of 17 digits.
    doubles += [chance.randrange(1 << 52, 1 << 53) / 8 for _ in range(DECIMALS)]
    for double in doubles:
        if abs(double) < float("inf"):
            shortest = Decimal(repr(double))
            finer = shortest + Decimal(10) ** (shortest.adjusted() - chance.choice((14, 16, 17, 20)))
            for decimal in (shortest, Decimal(double), finer):
                taken = decimal_double(decimal, np.dtype(np.float64))
                yield f"{decimal:E} {'refused' if taken is None else struct.pack('>d', taken).hex()}"


def write_certificates(folder: Path) -> None:
    """Write certificates of servers and clients: good ones, expired ones, ones of no authority or of another one.

    Beside them: a token, and the settings of a service that wants it and a client certificate.
    """
    authority = Authority(folder)
    for name in ("server", "client"):
        authority.sign(name)
        authority.sign(f"{name}-expired", expired=True)
        self_signed(folder, f"{name}-unsigned")
    authority.sign("server-elsewhere", addresses=["192.0.2.1"])
    Authority(folder, "other").sign("client-other")
    (folder / "token").write_text("a-token\n")
    (folder / "tokens.toml").write_text(f'[[token]]\nname = "jvm"\nsha256 = "{token_digest("a-token").hex()}"\n')
    (folder / "prinz.toml").write_text(
        f"""[server.tls]
certificate = "{folder}/server-certificate.pem"
key = "{folder}/server-key.pem"
client_ca = "{folder}/authority.pem"
[auth]
tokens_file = "{folder}/tokens.toml"
"""
    )


def main() -> int:
    """Run `mvn verify` with a registry beside it; give its exit code."""
    maven = shutil.which("mvn")
    if maven is None:
        sys.exit("Maven and a JDK are needed; on Debian: apt-get install maven openjdk-17-jdk-headless")
    with tempfile.TemporaryDirectory(prefix="prinz-nussknacker-") as name:
        folder = Path(name)
        (folder / "decimals").write_text("\n".join(decimals()), encoding="ascii")
        write_certificates(folder)
        with PrivateServer(f"sqlite:///{folder / 'mlflow.db'}", log_file=folder / "mlflow.log") as registry:
            variables = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "PRINZ_"))}
            training = [sys.executable, "-m", "samples.train", "--registry", registry.url]
            subprocess.run(training, cwd=ROOT, env=variables, check=True, timeout=300)
            register_touchy(registry.url, folder)
            register(registry.url, _MOVING, folder)
            register(registry.url, _TYPED, folder)
            build = [maven, "--batch-mode", "--no-transfer-progress", "--file", str(ROOT / "nussknacker"), "verify"]
            # It ends with this process, and with it what it started.
            with subprocess.Popen(
                [sys.executable, "-P", "-S", orphan_watchdog.__file__, "5", *build, *sys.argv[1:]],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                env={
                    **variables,
                    "PRINZ_TEST_REGISTRY": registry.url,
                    "PRINZ_TEST_PYTHON": sys.executable,
                    "PRINZ_TEST_WATCHDOG": str(orphan_watchdog.__file__),
                    "PRINZ_TEST_DECIMALS": str(folder / "decimals"),
                    "PRINZ_TEST_CERTIFICATES": str(folder),
                    "XDG_CACHE_HOME": str(folder / "cache"),
                },
            ) as maven_run:
                return maven_run.wait()


if __name__ == "__main__":
    sys.exit(main())
