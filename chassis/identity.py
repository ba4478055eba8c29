"""Identifies callers by a JWT, by claims that a service mesh has verified, or by a principal that a service has signed.

Tokens are verified by PyJWT. The keys of the identity provider are fetched again when they are old, and when a token
names an unknown key, so that keys can rotate.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import jwt
import orjson

from chassis.context import CallContext
from chassis.errors import NotReadyError, ServiceError, UnauthorizedError
from chassis.http import HttpUpstream
from chassis.principal import PRINCIPAL_HEADER, Principal
from chassis.settings import EdgeSettings

logger = logging.getLogger(__name__)

_SKEW_S = 30
"""Accepted difference between the clocks of two machines."""
_KEYS_AGE_S = 300.0
"""Age at which the keys of the identity provider are fetched again."""
_PAUSE_S = 5.0
"""Minimum time between fetches, so that tokens with made-up keys cause no load at the identity provider."""
_FETCH_TIMEOUT_S = 10.0
_MAX_KEYS_BYTES = 1024**2

_ISSUER = "kserve-rag"
"""Issuer of the principals that services sign for each other."""
_SIGNED = "HS256"

_FAILED_CHECKS: Sequence[tuple[type[jwt.PyJWTError], str]] = (
    (jwt.ExpiredSignatureError, "it has expired"),
    (jwt.ImmatureSignatureError, "it is not valid yet"),
    (jwt.InvalidIssuedAtError, "its time of issue (iat) is wrong"),
    (jwt.InvalidAudienceError, "its audience (aud) is another one"),
    (jwt.InvalidIssuerError, "its issuer (iss) is another one"),
    (jwt.InvalidAlgorithmError, "its algorithm (alg) is not allowed"),
    (jwt.InvalidSignatureError, "its signature is wrong"),
    (jwt.DecodeError, "it is not a JWT"),
)
"""Errors of PyJWT, subclasses first, and what they mean. Their own messages may quote the token."""


class Signer:
    """Signs principals for one service."""

    def __init__(self, secret: str, audience: str) -> None:
        """`secret`: the same for all services. `audience`: the room that is called, such as `vectorstore`."""
        self._secret = secret
        self._audience = audience

    def sign(self, principal: Principal, lifetime_s: float) -> str:
        """A token that is valid for the rest of the request."""
        now = time.time()
        claims = {
            "iss": _ISSUER,
            "aud": self._audience,
            "sub": principal.subject,
            "groups": sorted(principal.groups),
            "iat": int(now),
            "exp": math.ceil(now + lifetime_s),
        }
        return jwt.encode(claims, self._secret, _SIGNED)


class Identifier:
    """Identifies the callers of one service. For one event loop."""

    def __init__(self, settings: EdgeSettings, *, pause_s: float = _PAUSE_S) -> None:
        """Does no I/O. `pause_s`: minimum time between two fetches of the identity provider's keys."""
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._algorithms: list[str] = list(settings.jwt_algorithms)
        self._groups_claim = settings.jwt_groups_claim
        self._required = settings.jwt_required
        self._claims_header = settings.claims_header.lower()
        self._secret = settings.principal_secret.get_secret_value() if settings.principal_secret else None
        self._room = settings.room
        self._keys = _KeySet(settings.jwks_url, pause_s) if settings.jwks_url else None

    async def identify(self, headers: Mapping[str, str]) -> Principal | None:
        """The caller; None if it is anonymous.

        Args:
            headers: the request's headers, lower-case names.

        Raises:
            UnauthorizedError: a token is invalid, or there is none although the service requires one.
            NotReadyError: the keys of the identity provider were never fetched, and cannot be fetched now.
        """
        if self._secret is not None and (signed := headers.get(PRINCIPAL_HEADER)) is not None:
            return self._of_service(signed, self._secret)
        if self._claims_header and (verified := headers.get(self._claims_header)) is not None:
            return self._principal(_claims(verified), self._claims_header)
        if self._keys is not None and (sent := headers.get("authorization")) is not None:
            return await self._of_token(sent, self._keys)
        if self._required:
            raise UnauthorizedError("A token is required: send the header `Authorization: Bearer …`.", field=_FIELD)
        return None

    def _of_service(self, token: str, secret: str) -> Principal:
        try:
            claims = self._verified(token, secret, [_SIGNED], _ISSUER, self._room)
        except jwt.PyJWTError as error:
            reason = f"The header {PRINCIPAL_HEADER} is not valid: {_failed_check(error)}. Only services send it, with"
            raise UnauthorizedError(f"{reason} the same PRINCIPAL_SECRET.", field=PRINCIPAL_HEADER) from None
        return Principal(claims["sub"], frozenset(claims["groups"]))

    async def _of_token(self, sent: str, keys: _KeySet) -> Principal:
        scheme, _, token = sent.partition(" ")
        if scheme.lower() != "bearer":
            raise UnauthorizedError("The Authorization header has no bearer token.", field=_FIELD)
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._algorithms:
                raise jwt.InvalidAlgorithmError
            key = await keys.find(header.get("kid"))
            claims = self._verified(token, key, self._algorithms, self._issuer, self._audience)
        except jwt.PyJWTError as error:
            raise UnauthorizedError(f"The token is not valid: {_failed_check(error)}.", field=_FIELD) from None
        return self._principal(claims, _FIELD)

    def _verified(self, token: str, key: Any, algorithms: list[str], issuer: str, audience: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            issuer=issuer,
            audience=audience,
            leeway=_SKEW_S,
            options={"require": ["exp", "sub", "iss", "aud"]},
        )

    def _principal(self, claims: Mapping[str, Any], field: str) -> Principal:
        subject = claims.get("sub")
        if not isinstance(subject, str) or not subject:
            raise UnauthorizedError("The caller's claims have no subject (sub).", field=field)
        groups: Any = claims
        for name in [self._groups_claim] if self._groups_claim in claims else self._groups_claim.split("."):
            groups = groups.get(name) if isinstance(groups, Mapping) else None
        if isinstance(groups, str):
            groups = [groups]
        return Principal(subject, frozenset(each for each in groups or () if isinstance(each, str)))


class _KeySet:
    """The keys of the identity provider (a JWKS)."""

    def __init__(self, url: str, pause_s: float) -> None:
        address = urlsplit(url)
        self._root = f"{address.scheme}://{address.netloc}"
        self._path = address.path + (f"?{address.query}" if address.query else "")
        self._pause_s = pause_s
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched = self._tried = -math.inf
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """The key with this id; without an id, the only key.

        Raises:
            jwt.InvalidKeyError: there is none, even after the keys were fetched again.
            NotReadyError: no keys could be fetched yet.
        """
        if self._is_due(key_id):
            async with self._fetching:
                if self._is_due(key_id):  # not fetched while we waited
                    await self._fetch()
        if not self._keys:
            raise NotReadyError("The keys of the identity provider cannot be fetched. Try again shortly.")
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        if key_id not in self._keys:
            raise jwt.InvalidKeyError
        return self._keys[key_id]

    def _is_due(self, key_id: str | None) -> bool:
        now = time.monotonic()
        unknown = key_id not in self._keys and not (key_id is None and len(self._keys) == 1)
        return (unknown or now > self._fetched + _KEYS_AGE_S) and now >= self._tried + self._pause_s

    async def _fetch(self) -> None:
        """Fetches the keys. If that fails, keeps the previous ones."""
        upstream = HttpUpstream(
            self._root, name="identity provider", forward_authorization=False, max_response_bytes=_MAX_KEYS_BYTES
        )
        try:
            body = await upstream.get_json(self._path, CallContext(time.monotonic() + _FETCH_TIMEOUT_S))
            keys = jwt.PyJWKSet.from_dict(body).keys
        except ServiceError as error:
            logger.warning("cannot fetch the keys of the identity provider: %s", error.message)
        except (jwt.PyJWTError, AttributeError, TypeError):
            logger.warning("the identity provider sent no usable keys (JWKS)")
        else:
            self._keys = {key.key_id: key for key in keys}
            self._fetched = time.monotonic()
        finally:
            self._tried = time.monotonic()
            await upstream.aclose()


_FIELD = "authorization"


def _claims(sent: str) -> dict[str, Any]:
    """The claims that a mesh has verified: JSON in base64url, as Istio's `outputPayloadToHeader` writes them."""
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(sent + "=" * (-len(sent) % 4)))
    except (binascii.Error, ValueError):
        claims = None
    if not isinstance(claims, dict):
        raise UnauthorizedError("The claims of the mesh cannot be read: they must be JSON in base64url.")
    return claims


def _failed_check(error: jwt.PyJWTError) -> str:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"the claim {error.claim} is missing"
    if isinstance(error, jwt.InvalidKeyError):
        return "the identity provider has no key with its id (kid)"
    return next((text for kind, text in _FAILED_CHECKS if isinstance(error, kind)), "a check failed")
