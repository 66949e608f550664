"""Ray Serve's gRPC proxy with the sample models.

`ray_server.py MODELS PORT FOLDER plain|batch ROWS SECONDS`; rows_pb2 is made from rows.proto in FOLDER by this Python,
since generated code must be of the protobuf that Ray brings. It ends with its standard input.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

_FOLDER = Path(sys.argv[3])
_PROTO = Path(__file__).parent.parent / "protos" / "rows.proto"
subprocess.run(
    [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={_PROTO.parent}"),
        *(f"--python_out={_FOLDER}", f"--grpc_python_out={_FOLDER}", _PROTO.name),
    ],
    check=True,
)
sys.path.insert(0, str(_FOLDER))
os.environ["PYTHONPATH"] = str(_FOLDER)

# All of these after the generated code is there.
import mlflow  # noqa: E402 - see above
import numpy as np  # noqa: E402 - see above
import pandas as pd  # noqa: E402 - see above
import ray  # noqa: E402 - see above
from ray import serve  # noqa: E402 - see above
from ray.serve.config import HTTPOptions, gRPCOptions  # noqa: E402 - see above
from rows_pb2 import Rows, Scores  # noqa: E402

MODELS = Path(sys.argv[1])


def frame(request: Rows) -> pd.DataFrame:
    """Return the rows of a request."""
    return pd.DataFrame(
        {
            column.name: list(column.strings) if column.strings else np.frombuffer(column.doubles)
            for column in request.columns
        }
    )


class Models:
    """Both models, by their names."""

    def __init__(self, folder: str) -> None:
        self._models = {name: mlflow.pyfunc.load_model(f"{folder}/{name}") for name in ("wine", "fraud")}

    def scores(self, model: str, rows: pd.DataFrame) -> np.ndarray:
        """Score rows with one of them."""
        return np.asarray(self._models[model].predict(rows), dtype="float64")


def deployment(batch_rows: int, batch_seconds: float) -> type:
    """Return what Ray is to run: with batches of several calls where `batch_rows` is not 0."""

    class Plain(Models):
        """Each call by itself."""

        def Score(self, request: Rows) -> Scores:  # noqa: N802 - the method of the contract
            """Score the rows of one call."""
            return Scores(doubles=self.scores(request.model, frame(request)).tobytes())

    class Batched(Models):
        """What comes within some time, together."""

        @serve.batch(max_batch_size=batch_rows or 1, batch_wait_timeout_s=batch_seconds)
        async def Score(self, requests: list[Rows]) -> list[Scores]:  # noqa: N802 - Ray wants it so
            """Score the rows of several calls: those of one model in one go."""
            answers: dict[int, Scores] = {}
            for model in {request.model for request in requests}:
                places = [place for place, request in enumerate(requests) if request.model == model]
                frames = [frame(requests[place]) for place in places]
                scores = self.scores(model, pd.concat(frames, ignore_index=True))
                parts = np.split(scores, np.cumsum([len(rows) for rows in frames])[:-1])
                answers |= {place: Scores(doubles=part.tobytes()) for place, part in zip(places, parts, strict=True)}
            return [answers[place] for place in range(len(requests))]

    return Batched if batch_rows else Plain


def main() -> None:
    """Serve until standard input ends."""
    _, _, port, folder, kind, rows, seconds = sys.argv
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        http_port = probe.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, _temp_dir=f"{folder}/ray", log_to_driver=False)
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(
            port=int(port), grpc_servicer_functions=["rows_pb2_grpc.add_ScoringServicer_to_server"]
        ),
    )
    served = deployment(int(rows) if kind == "batch" else 0, float(seconds))
    # Its default of 5 calls at a time in a replica would leave a batch of 64 nearly empty.
    application = serve.deployment(max_ongoing_requests=1024)(served).bind(str(MODELS))
    serve.run(application, name="scoring", route_prefix="/")
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
