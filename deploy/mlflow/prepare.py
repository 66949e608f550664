"""Gets ready what MLflow's server stands on: waits for the database and the bucket, and makes or upgrades them.

`python prepare.py postgresql+psycopg2://user@host:port/database`, with the variables of `server.sh`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import OperationalError

PATIENCE = 120.0
"""Seconds until a database or a bucket must be there."""

_T = TypeVar("_T")


def main() -> None:
    """Wait for both, make the bucket, and upgrade the database of an older MLflow."""
    store = sys.argv[1]
    is_new = wait_for("the database", lambda: not inspect(create_engine(store)).has_table("alembic_version"))
    if not is_new:
        # Changes nothing where the database is of this version. MLflow itself makes a new one.
        subprocess.run(["mlflow", "db", "upgrade", store], check=True)
    bucket = os.environ["BUCKET_NAME"]
    wait_for("the bucket's server", lambda: make_bucket(bucket))


def make_bucket(name: str) -> None:
    """Make a bucket where it is not there yet."""
    client = boto3.client(
        "s3",
        endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"],
        region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"),
        config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=10, retries={"max_attempts": 1}),
    )
    if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=name)


def wait_for(what: str, ask: Callable[[], _T]) -> _T:
    """Ask until there is an answer; raises the last error once it takes too long."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except (OperationalError, BotoCoreError, ClientError) as error:
            if time.monotonic() > end:
                raise
            print(f"waiting for {what}: {type(error).__name__}", flush=True)
            time.sleep(1)


if __name__ == "__main__":
    main()
