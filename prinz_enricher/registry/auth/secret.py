"""Where a password or a token comes from: given once, or from a file that others write anew."""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prinz_enricher.registry.errors import CredentialsUnavailable

MAX_SECRET_BYTES = 64 * 1024
"""How long a secret may be."""


class SecretSource(Protocol):
    """Gives a secret; may be used by several threads at once."""

    def current(self) -> str:
        """Return the secret.

        Raises:
            RegistryError: There is none.
        """

    def reject(self, used: str) -> None:
        """Take note that the registry did not accept a secret, so that the next one may be another."""


@dataclass(frozen=True, slots=True)
class GivenSecret:
    """A secret that stays as it is."""

    value: str = field(repr=False)

    def current(self) -> str:
        """Return the secret."""
        return self.value

    def reject(self, used: str) -> None:
        """Do nothing: there is no other."""


class SecretFile:
    """A secret in a file, which is read again when the file is another one, or the secret was not accepted.

    Kubernetes rotates projected tokens by a new file behind the same path; a look at the path costs microseconds.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Read nothing yet.

        Args:
            path: Of the file; a line break at its end does not count.
            what: What is in it, for messages, such as `token`.
        """
        self._path = path
        self._what = what
        self._lock = threading.Lock()
        self._read_from: tuple[int, ...] | None = None
        self._secret = ""

    def __repr__(self) -> str:
        return f"SecretFile({str(self._path)!r})"

    def current(self) -> str:
        """Return what the file holds now.

        Raises:
            CredentialsUnavailable: It can't be read, is empty, or too long.
        """
        with self._lock:
            try:
                if self._read_from != _identity(self._path.stat()):
                    self._read()
            except OSError as error:
                self._read_from = None
                raise CredentialsUnavailable(
                    f"the {self._what} file {self._path} can't be read: {error.strerror}"
                ) from None
            return self._secret

    def reject(self, used: str) -> None:
        """Read the file again next time: it may have been written twice within one tick of the disk's clock."""
        with self._lock:
            self._read_from = None

    def _read(self) -> None:
        # A pipe without a writer would hold us for ever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            content = file.read(MAX_SECRET_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
        try:
            secret = content.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            secret = ""
        if not secret or len(content) > MAX_SECRET_BYTES:
            self._read_from = None
            raise CredentialsUnavailable(f"the {self._what} file {self._path} holds no {self._what}")
        self._secret = secret
        self._read_from = _identity(status)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
