"""Signs JWTs, as an identity provider does."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from prinz_enricher.config import JwtSettings

URL = "https://id.example.com/"
AUDIENCE = "prinz-enricher"


class SigningKey:
    """A key of an issuer, which signs by one algorithm."""

    def __init__(self, kid: str, algorithm: str = "ES256", *, bits: int = 2048) -> None:
        self.kid = kid
        self.algorithm = algorithm
        private: Any
        if algorithm == "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        elif algorithm.startswith("ES"):
            private = ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())
        else:
            private = rsa.generate_private_key(65537, bits)
        self.private = private

    @property
    def public_pem(self) -> bytes:
        """The public key as everyone can get it."""
        form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        pem: bytes = self.private.public_key().public_bytes(*form)
        return pem

    def jwk(self, **given: Any) -> dict[str, Any]:
        """Return the public key as a JWK; what is given is added, or replaced."""
        kind: Any = get_default_algorithms()[self.algorithm]
        return {**kind.to_jwk(self.private.public_key(), as_dict=True), "kid": self.kid, **given}

    def token(self, *, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Return a signed token that is good for a minute; a claim that is given as None is left out."""
        every = {"iss": URL, "aud": AUDIENCE, "sub": "scenarios", "exp": int(time.time()) + 60, **claims}
        payload = json.dumps({name: value for name, value in every.items() if value is not None}).encode()
        known = {"alg": self.algorithm, "kid": self.kid, **(header or {})}
        fields = json.dumps({name: value for name, value in known.items() if value is not None}).encode()
        return self.sign(fields, payload)

    def sign(self, header: bytes, payload: bytes) -> str:
        """Return a token of these bytes, however wrong they are."""
        signed = f"{encode(header)}.{encode(payload)}"
        kind: Any = get_default_algorithms()[self.algorithm]
        return f"{signed}.{encode(kind.sign(signed.encode(), self.private))}"

    def token_by_public_key(self) -> str:
        """Return a token signed by HS256, whose secret is the public key that everyone can get."""
        header, payload, _ = self.token(header={"alg": "HS256"}).split(".")
        signed = f"{header}.{payload}"
        return f"{signed}.{encode(hmac.digest(self.public_pem, signed.encode(), hashlib.sha256))}"


def bad_tokens(key: SigningKey) -> list[tuple[str, str]]:
    """Return tokens that are not accepted where those of a key are, each with what is said of it."""
    header, payload, _ = key.token(header={"alg": "none"}).split(".")
    return [
        ("guessed-by-someone", "neither a known one nor a well-formed JWT"),
        (key.token(exp=int(time.time()) - 60), "the token has expired"),
        (key.token(aud="others"), "for another audience"),
        (key.token(iss="https://other.example.com/"), "of another issuer"),
        (f"{header}.{payload}.", "algorithm is not allowed"),
        (key.token_by_public_key(), "algorithm is not allowed"),
        (SigningKey(key.kid).token(), "signature is wrong"),
        (SigningKey("two").token(), "signed with an unknown key"),
        ("x" * 8193, "is longer than 8192 bytes"),
    ]


def encode(content: bytes) -> str:
    """Return bytes in base64url without padding, as they stand in a token."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def jwks(*keys: SigningKey | dict[str, Any]) -> bytes:
    """Return keys as an issuer lists them."""
    return json.dumps({"keys": [key.jwk() if isinstance(key, SigningKey) else key for key in keys]}).encode()


def jwt_settings(file: Path | None = None, *, url: str = "", **given: Any) -> JwtSettings:
    """Return the settings for tokens of this issuer, with its keys from a file or a URL."""
    return JwtSettings(issuer=URL, audience=AUDIENCE, jwks_file=str(file or ""), jwks_url=url, **given)
