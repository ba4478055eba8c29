"""Callers: tokens, claims of a mesh, principals between services, on all protocols of a running service."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import jwt
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from pydantic_settings import SettingsConfigDict

from chassis.context import CallContext
from chassis.errors import NotReadyError, UnauthorizedError
from chassis.identity import Identifier, Signer
from chassis.principal import PRINCIPAL_HEADER, Principal
from chassis.settings import EdgeSettings, SettingError, read_settings
from tests.chassis.test_server import PREDICT, Echo, running_echo
from tests.fakes.identity_provider import AUDIENCE, ISSUER, IdentityProvider

SECRET = "a secret of at least 32 characters"  # noqa: S105
CANARY = "canary7f3a"


class RoomSettings(EdgeSettings):
    model_config = SettingsConfigDict(env_prefix="ROOM_")


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


def identifier(provider: IdentityProvider, *, pause_s: float = 0, **more: Any) -> Identifier:
    settings = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwks_url": provider.jwks_url, **more}
    return Identifier(read_settings(RoomSettings, **settings), pause_s=pause_s)


async def refusal(checked: Identifier, headers: dict[str, str]) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        await checked.identify(headers)
    return caught.value.message


async def test_a_token_names_the_caller_and_its_groups(provider: IdentityProvider) -> None:
    checked = identifier(provider, jwt_algorithms="ES256")
    assert await checked.identify({}) is None
    assert await checked.identify(provider.bearer("ann", "hr", "staff")) == Principal("ann", frozenset(("hr", "staff")))
    assert await checked.identify(provider.bearer("ann", groups="hr")) == Principal("ann", frozenset(("hr",)))
    assert await checked.identify(provider.bearer("ann", groups=None)) == Principal("ann")
    nested = identifier(provider, jwt_groups_claim="realm_access.roles")
    found = await nested.identify(provider.bearer("ann", realm_access={"roles": ["hr"]}))
    assert found == Principal("ann", frozenset(("hr",)))
    with pytest.raises(UnauthorizedError, match="A token is required"):
        await identifier(provider, jwt_required=True).identify({})


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"exp": 1}, "it has expired"),
        ({"nbf": 2**33}, "it is not valid yet"),
        ({"aud": f"{CANARY}-service"}, "its audience (aud) is another one"),
        ({"iss": f"https://{CANARY}"}, "its issuer (iss) is another one"),
        ({"exp": None}, "the claim exp is missing"),
        ({"sub": None}, "the claim sub is missing"),
        ({"headers": {"kid": CANARY}}, "no key with its id (kid)"),
    ],
)
async def test_an_invalid_token_is_refused_with_the_check_that_failed(
    provider: IdentityProvider, claims: dict[str, Any], message: str
) -> None:
    sent = provider.bearer("ann", **claims)
    told = await refusal(identifier(provider), sent)
    assert message in told
    assert CANARY not in told
    assert sent["authorization"].split(".")[1] not in told


async def test_forged_tokens_are_refused(provider: IdentityProvider) -> None:
    checked = identifier(provider)
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 60}
    (key_id,) = provider.keys
    valid = provider.token("ann")
    head, body, signature = valid.split(".")
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "root"}).encode()).rstrip(b"=").decode()
    for token, message in {
        jwt.encode(claims, None, "none"): "its algorithm (alg) is not allowed",
        jwt.encode(claims, SECRET, "HS256", {"kid": key_id}): "its algorithm (alg) is not allowed",
        f"{head}.{other}.{signature}": "its signature is wrong",
        f"{head}.{body}.": "its signature is wrong",
        f"{valid}x.y": "it is not a JWT",
        "": "it is not a JWT",
        f"{valid}, Bearer {valid}": "it is not a JWT",
    }.items():
        assert message in await refusal(checked, {"authorization": f"Bearer {token}"})
    assert "bearer" in await refusal(checked, {"authorization": f"Basic {CANARY}"})


async def test_clocks_may_differ_a_little(provider: IdentityProvider) -> None:
    now = time.time()
    assert await identifier(provider).identify(provider.bearer("ann", exp=now - 5, nbf=now + 20)) == Principal("ann")


async def test_keys_rotate(provider: IdentityProvider) -> None:
    eager, patient = identifier(provider), identifier(provider, pause_s=3600)
    old = provider.bearer("ann")
    for checked in (eager, patient):
        assert await checked.identify(old) == Principal("ann")
    provider.rotate()
    assert await eager.identify(provider.bearer("bob")) == Principal("bob")
    assert "no key" in await refusal(eager, old)
    fetches = provider.fetches
    for _ in range(3):
        assert "no key" in await refusal(patient, provider.bearer("bob"))
    assert provider.fetches == fetches, "unknown keys cause no load at the identity provider"


@pytest.mark.parametrize("answer", ["[]", "{}", '{"keys": [1]}', "no JSON"])
async def test_without_usable_keys_the_service_is_not_ready(provider: IdentityProvider, answer: str) -> None:
    checked = identifier(provider)
    provider.answer = answer
    try:
        with pytest.raises(NotReadyError, match="identity provider"):
            await checked.identify(provider.bearer("ann"))
    finally:
        provider.answer = None
    assert await checked.identify(provider.bearer("ann")) == Principal("ann")
    provider.answer = answer
    try:
        assert await checked.identify(provider.bearer("ann")) == Principal("ann"), "the previous keys are kept"
    finally:
        provider.answer = None


async def test_claims_of_a_mesh_count_only_in_the_header_of_the_setting(provider: IdentityProvider) -> None:
    claims = base64.urlsafe_b64encode(json.dumps({"sub": "ann", "groups": ["hr"]}).encode()).rstrip(b"=").decode()
    checked = Identifier(read_settings(RoomSettings, claims_header="X-JWT-Payload"))
    assert await checked.identify({"x-jwt-payload": claims}) == Principal("ann", frozenset(("hr",)))
    assert await checked.identify({"x-other": claims}) is None
    assert await identifier(provider).identify({"x-jwt-payload": claims}) is None
    for sent in ("e30", "%%", CANARY, "W10"):
        assert CANARY not in await refusal(checked, {"x-jwt-payload": sent})


async def test_a_service_signs_for_one_other_service() -> None:
    ann = Principal("ann", frozenset(("hr", "staff")))
    checked = Identifier(read_settings(RoomSettings, principal_secret=SECRET))
    assert await checked.identify({PRINCIPAL_HEADER: Signer(SECRET, "room").sign(ann, 10)}) == ann
    assert await checked.identify({}) is None
    for token, message in {
        Signer(SECRET, "elsewhere").sign(ann, 10): "its audience (aud) is another one",
        Signer(SECRET[::-1], "room").sign(ann, 10): "its signature is wrong",
        Signer(SECRET, "room").sign(ann, -60): "it has expired",
        jwt.encode({"sub": "ann"}, None, "none"): "its algorithm (alg) is not allowed",
    }.items():
        assert message in await refusal(checked, {PRINCIPAL_HEADER: token})


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(SettingError, match=r"^ROOM_JWT_ISSUER needs"):
        read_settings(RoomSettings, jwt_issuer=ISSUER)
    with pytest.raises(SettingError, match=r"^ROOM_JWT_REQUIRED needs"):
        read_settings(RoomSettings, jwt_required=True)
    with pytest.raises(SettingError, match=r"^ROOM_PRINCIPAL_SECRET") as caught:
        read_settings(RoomSettings, principal_secret=CANARY)
    assert CANARY not in str(caught.value)
    with pytest.raises(SettingError, match="JWT_ALGORITHMS"):
        read_settings(RoomSettings, jwt_algorithms="HS256")


@pytest.fixture(scope="module")
def guarded(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    variables = {
        "ECHO_JWT_ISSUER": ISSUER,
        "ECHO_JWT_AUDIENCE": AUDIENCE,
        "ECHO_JWKS_URL": provider.jwks_url,
        "ECHO_JWT_REQUIRED": "true",
        "ECHO_CORS_ORIGINS": "https://portal.example.com",
    }
    with running_echo(tmp_path_factory.mktemp("guarded"), **variables) as service:
        yield service


def test_every_protocol_refuses_a_bad_token_in_its_own_shape(guarded: Echo, provider: IdentityProvider) -> None:
    expired = provider.bearer("ann", exp=1)
    with httpx.Client(base_url=guarded.url) as client:
        for headers, message in ((expired, "The token is not valid: it has expired."), ({}, "A token is required")):
            for path in (PREDICT, "/v2/models/echo/infer"):
                refused = client.post(path, json={"do": "echo"}, headers=headers)
                assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
                assert refused.json()["error"].startswith(message)
                assert refused.json()["code"] == "unauthorized"
            assert client.get("/other/crash", headers=headers).json()["error"]["message"].startswith(message)
        for path in ("/v2/health/live", "/v2/models/echo/ready", "/metrics"):
            assert client.get(path).status_code == 200, "probes have no token"
        preflight = {"origin": "https://portal.example.com", "access-control-request-method": "POST"}
        assert client.options(PREDICT, headers=preflight).status_code == 200
        answered = client.post(PREDICT, json={"do": "echo"}, headers=provider.bearer("ann", "hr"))
        assert answered.json()["predictions"][0]["principal"] == ["ann", ["hr"]]
        forged = {PRINCIPAL_HEADER: Signer(SECRET, "echo").sign(Principal("root"), 60)}
        answered = client.post(PREDICT, json={"do": "echo"}, headers={**provider.bearer("ann"), **forged})
        assert answered.json()["predictions"][0]["principal"] == ["ann", []]
        assert PRINCIPAL_HEADER not in answered.json()["predictions"][0]["headers"]


def test_grpc_refuses_a_bad_token(guarded: Echo, provider: IdentityProvider) -> None:
    text = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(b"cats")
    request = pb.ModelInferRequest(model_name="echo", inputs=[text])
    with grpc.insecure_channel(guarded.grpc_url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        for sent, message in ((provider.bearer("ann", exp=1), "it has expired"), ({}, "A token is required")):
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelInfer(request, metadata=list(sent.items()), timeout=60)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert message in caught.value.details()
        answered = stub.ModelInfer(request, metadata=list(provider.bearer("ann").items()), timeout=60)
        assert answered.outputs[0].contents.bytes_contents == [b"cats/0"]
        assert stub.ModelReady(pb.ModelReadyRequest(name="echo"), timeout=60).ready


def test_a_context_has_no_caller_outside_of_requests() -> None:
    assert CallContext.start(1).principal is None
