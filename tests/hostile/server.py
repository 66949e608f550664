"""The process that is attacked: the real service behind the real front, over models in memory.

Prints its port, and ends when its standard input does. Run as `python -m tests.hostile.server FRONT`.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import click

from prinz_enricher.cli import process_setup
from prinz_enricher.config import AuthSettings, JwtSettings, ServerSettings, Settings
from prinz_enricher.fronts.grpc import SERVICE, Callers, FrontSecurity, open_front
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.service.enricher import EnricherService
from prinz_enricher.service.score.messages import Limits
from prinz_enricher.service.targets import Targets
from prinz_enricher.telemetry.logs import configure_logging
from tests.hostile.models import INFLIGHT_BYTES, MESSAGE_BYTES, TOKEN, StillCatalog, function_of
from tests.support.inline_pool import InlinePool


@click.command()
@click.argument("front")
@click.option("--files", type=int, help="How many files may be open.")
@click.option("--tokens", is_flag=True, help="Let in only callers with a token.")
def main(front: str, files: int | None, *, tokens: bool) -> None:
    """Serve until standard input ends."""
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    process_setup.block_imports("pandas")
    process_setup.raise_file_limit()
    process_setup.use_libc_allocator()
    process_setup.use_batch_scheduling()
    configure_logging("critical", "json")
    pool = InlinePool(function_of, PoolSettings())
    catalog = StillCatalog()
    targets = Targets(catalog, pool, Settings.load({}, environment={}))
    service = EnricherService(catalog, pool, targets, Limits(1_000_000, MESSAGE_BYTES))
    settings = ServerSettings(
        front=cast("Any", front), port=0, max_message_bytes=MESSAGE_BYTES, max_inflight_bytes=INFLIGHT_BYTES
    )
    with ExitStack() as stack:
        serving = open_front(settings, _security(stack) if tokens else None)
        port = serving.start(service.handle, service.open_source)
        serving.set_health({"": True, SERVICE.full_name: True})
        process_setup.trim_memory()
        sys.setswitchinterval(0.0002)
        click.echo(port)
        signals: SimpleQueue[int] = SimpleQueue()

        def wait_for_end() -> None:
            sys.stdin.read()
            signals.put(signal.SIGTERM)

        threading.Thread(target=wait_for_end, daemon=True).start()
        process_setup.wait_for_signal(signals)
        # A test ends it whatever is in flight.
        os._exit(0)


def _security(stack: ExitStack) -> FrontSecurity:
    from tests.support.issuer import AUDIENCE, URL, SigningKey, jwks

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    (folder / "tokens.toml").write_text(
        f'[[token]]\nname = "good"\nsha256 = "{sha256(TOKEN.encode()).hexdigest()}"\n', encoding="ascii"
    )
    (folder / "jwks.json").write_bytes(jwks(SigningKey("one")))
    jwt = JwtSettings(issuer=URL, audience=AUDIENCE, jwks_file=str(folder / "jwks.json"))
    authenticator = Authenticator(AuthSettings(tokens_file=str(folder / "tokens.toml"), jwt=jwt))
    return FrontSecurity(Callers(authenticator, tokens=True, certificates=False))


if __name__ == "__main__":
    main()
