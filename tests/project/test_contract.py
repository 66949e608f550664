"""The contract: what `make lint` can't see of it."""

import subprocess
import sys
from pathlib import Path

from google.protobuf import descriptor_pb2

ROOT = Path(__file__).resolve().parents[2]


def test_breaking_change_is_found(tmp_path: Path) -> None:
    """A field that is taken away from the released contract is a breaking change."""
    image = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "proto" / "released.binpb").read_bytes())
    file = next(file for file in image.file if file.name.endswith("model.proto"))
    del file.message_type[0].field[0]
    changed = tmp_path / "changed.binpb"
    changed.write_bytes(image.SerializeToString())

    result = subprocess.run(
        [Path(sys.executable).parent / "buf", "breaking", changed, "--against", ROOT / "proto" / "released.binpb",
         "--config", ROOT / "buf.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert result.returncode != 0
    assert 'Previously present field "1"' in result.stdout


def test_names_of_the_contract() -> None:
    """The RPCs that callers reach by name are there, with their kinds."""
    image = descriptor_pb2.FileDescriptorSet.FromString((ROOT / "proto" / "released.binpb").read_bytes())
    service = next(service for file in image.file if file.package == "prinz.enricher.v1" for service in file.service)

    kinds = {method.name: (method.client_streaming, method.server_streaming) for method in service.method}

    assert service.name == "EnricherService"
    assert kinds == {
        "ListModels": (False, False),
        "GetSignature": (False, False),
        "Score": (False, False),
        "ScoreStream": (True, True),
        "WatchModels": (False, True),
    }
