"""An identity provider: serves public keys (JWKS), and signs tokens with the private ones."""

from __future__ import annotations

import json
import time
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.loopback import ThreadedServer

ISSUER = "https://id.example.com"
AUDIENCE = "kserve-rag"


class IdentityProvider(ThreadedServer):
    """Keys on the curve P-256, whose ids are `key-1`, `key-2` and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.fetches = 0
        self.answer: str | None = None
        """Replaces the JWKS."""
        self.rotate()

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    def rotate(self) -> None:
        """Replaces the keys by a new one."""
        number = int(next(iter(self.keys), "key-0").removeprefix("key-")) + 1
        self.keys = {f"key-{number}": ec.generate_private_key(ec.SECP256R1())}

    def token(self, subject: str, *groups: str, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token for `subject` that is valid for a minute. A claim of None is left out."""
        now = int(time.time())
        values = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "groups": list(groups),
            "iat": now,
            "exp": now + 60,
            **claims,
        }
        (key_id, key), *_ = self.keys.items()
        kept = {name: value for name, value in values.items() if value is not None}
        return jwt.encode(kept, key, "ES256", headers={"kid": key_id, **(headers or {})})

    def bearer(self, subject: str, *groups: str, **claims: Any) -> dict[str, str]:
        """The Authorization header with a token."""
        return {"authorization": f"Bearer {self.token(subject, *groups, **claims)}"}

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/keys", self._jwks)
        return app

    async def _jwks(self, _: web.Request) -> web.Response:
        self.fetches += 1
        keys = [
            {**jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": key_id}
            for key_id, key in self.keys.items()
        ]
        return web.Response(text=self.answer or json.dumps({"keys": keys}), content_type="application/json")
