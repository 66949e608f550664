"""Who we say we are: the Authorization header of requests, and the same for MLflow's own client in a worker.

The header is set, and a refused one replaced, by the transport and not by an `httpx.Auth` flow: httpx reads a refused
answer to its end before it sends the next request, however long that answer is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prinz_enricher.registry.auth.secret import SecretSource
from prinz_enricher.registry.errors import CredentialsUnavailable

_BEARER = "Bearer "


class Credentials(Protocol):
    """Authenticates requests; may be used by several threads at once. No `repr` holds a secret."""

    def authorization(self) -> str:
        """Return the Authorization header of a request; empty for none. It may ask a token endpoint for it.

        Raises:
            RegistryError: There is none to be had.
        """

    def refused(self, authorization: str) -> str:
        """Take note that a header was answered with HTTP 401.

        Returns:
            Another header to try once; empty where there is none.

        Raises:
            RegistryError: Another one was to be had, and can't be.
        """

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return the environment variables that tell MLflow's own client the same, valid at this moment.

        Raises:
            RegistryError: There is no valid secret to be had.
        """


@dataclass(frozen=True, slots=True)
class NoCredentials:
    """Says nothing of who we are."""

    def authorization(self) -> str:
        """Return nothing."""
        return ""

    def refused(self, authorization: str) -> str:
        """Return nothing: there is no other."""
        return ""

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return nothing."""
        return {}


@dataclass(frozen=True, slots=True)
class Basic:
    """User and password (RFC 7617)."""

    username: str
    password: SecretSource = field(repr=False)

    def authorization(self) -> str:
        """Return the header."""
        pair = f"{self.username}:{self.password.current()}"
        return f"Basic {base64.b64encode(pair.encode()).decode()}"

    def refused(self, authorization: str) -> str:
        """Return a header with the password as it is now, where that is another one."""
        self.password.reject("")
        now = self.authorization()
        return now if now != authorization else ""

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return user and password."""
        return {
            "MLFLOW_TRACKING_USERNAME": self.username,
            "MLFLOW_TRACKING_PASSWORD": self.password.current(),
        }


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token (RFC 6750), from wherever tokens come."""

    tokens: SecretSource = field(repr=False)

    def token(self) -> str:
        """Return the token that is valid now.

        Raises:
            RegistryError: There is none.
        """
        token = self.tokens.current()
        if not is_token(token):
            raise CredentialsUnavailable("the token has characters in it that no token has")
        return token

    def authorization(self) -> str:
        """Return the header."""
        return _BEARER + self.token()

    def refused(self, authorization: str) -> str:
        """Return a header with another token, where there is one."""
        self.tokens.reject(authorization.removeprefix(_BEARER))
        now = self.authorization()
        return now if now != authorization else ""

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return the token."""
        return {"MLFLOW_TRACKING_TOKEN": self.token()}


def is_token(text: str) -> bool:
    """Tell whether a text can stand in a header as one token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
