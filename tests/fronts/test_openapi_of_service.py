"""The documents of the HTTP API, by the tools of others: they are valid, and the service does what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV30SpecValidator

from tests.support.own_service import own_service

pytestmark = pytest.mark.slow

MODEL = "MLF-FraudDetection-3"
CONFIGURATION = """
[parameters]
"path.name" = "%(model)s"
"path.version" = "1"
"path.alias" = "champion"
"path.digest" = "%(digest)s"
# With less there is DEADLINE_EXCEEDED, as it should be.
"header.X-Request-Timeout" = "30"
"""
SCHEMATHESIS = Path(sys.executable).parent / "schemathesis"


@pytest.fixture(scope="module")
def api(sample_registry: Any) -> Iterator[str]:
    """The HTTP API of a service with the sample models."""
    with own_service(sample_registry.url, api={"port": 0}, scoring={"preload": ["MLF-*"]}) as service:
        yield f"http://127.0.0.1:{service.application.api_port}"


@pytest.mark.parametrize("path", ["/openapi.json", "/nussknacker/openapi.json"])
def test_documents_are_valid(api: str, path: str) -> None:
    """Both documents are OpenAPI 3.0."""
    document = httpx.get(api + path, trust_env=False).json()

    assert [error.message for error in OpenAPIV30SpecValidator(document).iter_errors()] == []
    assert document["paths"]


def test_the_service_is_as_described(api: str, tmp_path: Path) -> None:
    """Whatever fits the document or does not is answered as it says: status, media type, schema; by few examples.

    Of what fits, much is refused: the document has neither the inputs of each model nor the grammar of filters. And
    headers that it does not have are no fault.
    """
    described = httpx.get(f"{api}/v1/models/{MODEL}?view=full", trust_env=False).json()
    digest = described["versions"][0]["signature"]["digest"][:8]
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION % {"model": MODEL, "digest": digest})
    done = subprocess.run(
        [
            *(SCHEMATHESIS, "run", f"{api}/openapi.json", "--seed", "1", "--max-examples", "5"),
            *("--phases", "examples,coverage,fuzzing"),
            *("--exclude-checks", "positive_data_acceptance,negative_data_rejection"),
            *("--no-color", "--request-timeout", "30"),
        ],
        cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )

    assert done.returncode == 0, done.stdout + done.stderr
