"""Access rules, quotas and the audit log of `prinz-enricher serve`, by its settings."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc
from tests.support.front_core import KINDS
from tests.support.hostile_server import HostileServer
from tests.support.serve_process import serve
from tests.support.synthetic_registry import SyntheticRegistry

RULES = [
    {"principals": ["nk"], "models": ["fraud-*"], "methods": ["list", "describe"]},
    {"principals": ["ops"], "models": ["*"], "methods": ["list", "describe", "score", "watch"]},
]


def caller(name: str) -> Any:
    """Return the metadata of a caller."""
    return [("authorization", f"Bearer token-of-{name}")]


@pytest.mark.parametrize("front", KINDS)
def test_settings_guard_the_service(front: str, hostile_server: HostileServer, tmp_path: Path) -> None:
    """Each caller sees its models, is over its own quota, and has its lines in the audit log."""
    hostile_server.respond = SyntheticRegistry("fraud-a", "geheim")
    tokens, audit = tmp_path / "tokens.toml", tmp_path / "audit.jsonl"
    digests = {name: hashlib.sha256(f"token-of-{name}".encode()).hexdigest() for name in ("nk", "ops")}
    tokens.write_text("".join(f'[[token]]\nname = "{name}"\nsha256 = "{of}"\n' for name, of in digests.items()))
    variables = {
        "PRINZ_AUTH__TOKENS_FILE": str(tokens),
        "PRINZ_ACCESS": json.dumps(RULES),
        "PRINZ_QUOTA__CALLS_IN_FLIGHT": "1",
        "PRINZ_AUDIT__OUTPUT": str(audit),
    }
    with serve("--registry", hostile_server.url, "--front", front, variables=variables) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
            names = {
                name: [model.name for model in stub.ListModels(pb.ListModelsRequest(), metadata=caller(name)).models]
                for name in ("nk", "ops")
            }
            assert names == {"nk": ["fraud-a"], "ops": ["fraud-a", "geheim"]}
            watching = stub.WatchModels(pb.WatchModelsRequest(), metadata=caller("ops"))
            next(watching)
            with pytest.raises(grpc.RpcError, match="over its quota of 1 calls in flight"):
                stub.ListModels(pb.ListModelsRequest(), metadata=caller("ops"))
            stub.ListModels(pb.ListModelsRequest(), metadata=caller("nk"))
            with pytest.raises(grpc.RpcError, match='There is no model "geheim"'):
                stub.GetSignature(pb.GetSignatureRequest(model={"name": "geheim"}), metadata=caller("nk"))
            with pytest.raises(grpc.RpcError, match="has no right to score it"):
                stub.Score(pb.ScoreRequest(model={"name": "fraud-a"}), metadata=caller("nk"))
        assert running.end() == 0
        log = "".join(running.lines)
    assert "token-of" not in log
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    # The service may notice its end before that of the channel.
    [watch] = [line for line in lines if line["method"] == "WatchModels"]
    assert (watch["principal"], watch["code"] in {"CANCELLED", "UNAVAILABLE"}) == ("ops", True)
    assert sorted((line["principal"], line["method"], line["code"]) for line in lines if line is not watch) == [
        ("nk", "GetSignature", "NOT_FOUND"),
        ("nk", "ListModels", "OK"),
        ("nk", "ListModels", "OK"),
        ("nk", "Score", "PERMISSION_DENIED"),
        ("ops", "ListModels", "OK"),
        ("ops", "ListModels", "RESOURCE_EXHAUSTED"),
    ]
    assert digests["nk"] not in log + audit.read_text()


def test_an_audit_log_that_can_not_be_opened(tmp_path: Path) -> None:
    """The start is refused, with one sentence."""
    done = subprocess.run(
        [sys.executable, "-m", "prinz_enricher.cli", "serve", "--registry", "http://127.0.0.1:9", "--port", "0"],
        env={"PRINZ_AUDIT__OUTPUT": str(tmp_path / "no" / "audit.log"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"Error: audit.output: {tmp_path}/no/audit.log can't be opened (No such file or directory)"
    )
