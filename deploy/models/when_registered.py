"""Serves one model version once the registry has it: `python when_registered.py NAME VERSION HOST PORT`.

The proxy finds this container when it starts, and the models are registered through the proxy: so the container is
there before its models are.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import urlopen

PAUSE = 2.0
"""Seconds between two looks at the registry."""


def main() -> None:
    """Wait as long as it takes, then become the model server."""
    name, version = sys.argv[1:3]
    query = urlencode({"name": name, "version": version})
    url = f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/model-versions/get?{query}"
    told = ""
    while why := missing(url):
        if why != told:
            print(f"waiting for version {version} of {name}: {why}", flush=True)
            told = why
        time.sleep(PAUSE)
    serve = str(Path(__file__).with_name("serve.sh"))
    os.execv("/bin/sh", ["sh", serve, *sys.argv[1:]])  # noqa: S606 - the same process goes on, for its supervisor


def missing(url: str) -> str:
    """Tell why a version is not to be had yet; empty where it is."""
    try:
        with urlopen(url, timeout=10):  # noqa: S310 - the registry's
            return ""
    except HTTPError as error:
        with error:
            return f"HTTP {error.code}"
    except (URLError, OSError) as error:
        return str(error)


if __name__ == "__main__":
    main()
