"""A token endpoint of OAuth 2.0, and a proxy that lets its tokens through: two responders of a `HostileServer`."""

import base64
import threading
import time
from collections.abc import Callable
from urllib.parse import parse_qs, unquote_plus

import httpx

from tests.support.hostile_server import Answer, Request, answer_json


class TokenEndpoint:
    """Gives tokens as RFC 6749 says, until a test breaks it.

    Attributes:
        forms: What it was asked for, in order, without what was refused.
        lifetime: Seconds that its next tokens live, by the clock of this process; None for no word of it.
        told_lifetime: What it says of that, if not the truth.
        broken: What it answers instead, while it is set.
        gate: It answers only while this is set.
    """

    def __init__(self, client_id: str = "prinz", secret: str = "s3cret %&:+ż", scope: str = "") -> None:  # noqa: S107 - made up
        self.client_id = client_id
        self.secret = secret
        self.scope = scope
        self.forms: list[dict[str, str]] = []
        self.asked = 0
        self.lifetime: float | None = 3600.0
        self.told_lifetime: object = None
        self.broken: Answer | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._ends: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        with self._lock:
            self.asked += 1
        self.gate.wait(60)
        if self.broken is not None:
            return self.broken
        form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
        kind, _, pair = request.headers.get("authorization", "").partition(" ")
        user, _, password = base64.b64decode(pair).decode().partition(":")
        if kind != "Basic" or (unquote_plus(user), unquote_plus(password)) != (self.client_id, self.secret):
            return answer_json({"error": "invalid_client", "error_description": f"not {self.secret}"}, 401)
        if request.method != "POST" or form.get("grant_type") != "client_credentials":
            return answer_json({"error": "unsupported_grant_type"}, 400)
        if form.get("scope", "") != self.scope:
            return answer_json({"error": "invalid_scope"}, 400)
        with self._lock:
            self.forms.append(form)
            token = f"issued-{len(self.forms)}-{id(self):x}"
            self._ends[token] = time.monotonic() + (3600.0 if self.lifetime is None else self.lifetime)
        answer = {"access_token": token, "token_type": "bearer"}
        told = self.told_lifetime if self.told_lifetime is not None else self.lifetime
        return answer_json(answer if told is None else {**answer, "expires_in": told})

    @property
    def tokens(self) -> list[str]:
        """The tokens given so far."""
        return list(self._ends)

    def accepts(self, authorization: str) -> bool:
        """Tell whether a header holds a token that lives."""
        return time.monotonic() < self._ends.get(authorization.removeprefix("Bearer "), 0.0)

    def revoke_all(self) -> None:
        """End all tokens now."""
        with self._lock:
            self._ends = dict.fromkeys(self._ends, 0.0)


class CheckingProxy:
    """Hands on to another server what has a good Authorization header, without it; refuses the rest with HTTP 401.

    Attributes:
        accepts: Tells which header is good.
        seen: Every header that came, in order, with the path.
        refusals: How many requests were refused.
    """

    def __init__(self, upstream: str, accepts: Callable[[str], bool]) -> None:
        self.upstream = upstream
        self.accepts = accepts
        self.seen: list[tuple[str, str]] = []
        self.refusals = 0
        self._http = httpx.Client(trust_env=False, timeout=30.0)

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        authorization = request.headers.get("authorization", "")
        self.seen.append((request.path, authorization))
        if not self.accepts(authorization):
            self.refusals += 1
            return answer_json({"error_code": "UNAUTHENTICATED", "message": authorization}, 401)
        headers = {name: request.headers[name] for name in ("content-type", "accept") if name in request.headers}
        answer = self._http.request(
            request.method, f"{self.upstream}{request.target}", content=request.body, headers=headers
        )
        kept = {name: answer.headers[name] for name in ("content-type",) if name in answer.headers}
        return Answer(answer.content, answer.status_code, kept)

    def log_in(self, user: str, password: str) -> None:
        """Show user and password to the other server from now on."""
        self._http.auth = httpx.BasicAuth(user, password)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()
