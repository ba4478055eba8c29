"""Settings that all services share. Each service subclasses them with its own prefix."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    HttpUrl,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from chassis.telemetry import LogFormat

if TYPE_CHECKING:
    from typing_extensions import Self


def _is_url(value: str) -> str:
    TypeAdapter(HttpUrl).validate_python(value)
    return value


BaseUrl = Annotated[str, AfterValidator(_is_url)]
"""Base URL of an upstream: `http://` or `https://`, and a host."""


_HOST = re.compile(r"[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]")
_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?")


def parts(value: str) -> list[str]:
    """The parts of a list with commas between them."""
    return [part.strip() for part in value.split(",")] if value.strip() else []


def split(value: object) -> object:
    """The parts of a list with commas between them; other values unchanged. For validators of settings."""
    return parts(value) if isinstance(value, str) else value


def _list_of(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        wrong = [part for part in parts(value) if not pattern.fullmatch(part)]
        if wrong:
            raise ValueError(f"use {wanted}, separated by commas: {wrong[0]!r} is not one")
        return value

    return AfterValidator(check)


Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signature algorithms of callers' tokens: all of them use a private and a public key."""


class EdgeSettings(BaseSettings):
    """Address, limits and callers of an HTTP service."""

    host: str = Field("0.0.0.0", description="Address to listen on. Use 127.0.0.1 outside a cluster.")  # noqa: S104 - a pod is reached at its own address
    http_port: int = Field(8080, ge=1, le=65535, description="Port for REST.")
    http_fd: int | None = Field(
        None,
        ge=3,
        description="File descriptor of an inherited listening socket, used instead of HOST and HTTP_PORT. Other "
        "processes of the service may then listen on its gRPC port.",
    )
    tls_cert_file: FilePath | None = Field(
        None,
        validation_alias="KSERVE_TLS_CERT_FILE",
        description="PEM file with the certificate chain for HTTPS; loaded again when it changes. KServe can set it. "
        "The default port 8080 becomes 8443, as in KServe's own servers. gRPC has no TLS.",
    )
    tls_key_file: FilePath | None = Field(
        None,
        validation_alias="KSERVE_TLS_KEY_FILE",
        validate_default=True,
        description="PEM file with the certificate's private key.",
    )
    allowed_hosts: Annotated[str, _list_of(_HOST, "host names without scheme and port")] = Field(
        "",
        description="Host names of the service, separated by commas. Empty: loopback names if HOST is a loopback "
        "address, else any.",
    )
    cors_origins: Annotated[str, _list_of(_ORIGIN, "origins such as https://portal.example.com")] = Field(
        "", description="Origins whose pages may call the service (CORS), separated by commas. Empty: none."
    )
    receive_timeout_s: float = Field(
        20,
        gt=0,
        le=3600,
        description="Maximum seconds until a request's headers are complete, and then until its body is, plus one for "
        "each 500 bytes of the body received so far.",
    )
    idle_timeout_s: int = Field(
        65,
        ge=1,
        le=3600,
        description="Maximum seconds that a connection is idle. Longer than the 60 s of common proxies, so that the "
        "proxy closes first.",
    )
    timeout_s: float = Field(60, gt=0, le=3600, description="Maximum time for a response, in seconds.")
    max_body_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="Maximum size of a request body, in bytes.")
    grace_period_s: int = Field(30, ge=0, le=3600, description="Time for requests in flight at shutdown, in seconds.")
    jwt_issuer: str = Field(
        "", description="Issuer (`iss`) of callers' tokens (JWT). Empty: callers are not identified by tokens."
    )
    jwt_audience: str = Field("", description="Audience (`aud`) of these tokens. Needed with JWT_ISSUER.")
    jwks_url: Annotated[BaseUrl | None, BeforeValidator(lambda value: value or None)] = Field(
        None, description="URL of the issuer's public keys (JWKS). Needed with JWT_ISSUER."
    )
    jwt_algorithms: Annotated[tuple[Algorithm, ...], NoDecode, BeforeValidator(split)] = Field(
        ("RS256", "ES256"), min_length=1, description="Accepted signature algorithms of tokens, separated by commas."
    )
    jwt_groups_claim: str = Field(
        "groups",
        min_length=1,
        description="Claim with the caller's groups; dots lead into objects (`realm_access.roles`).",
    )
    jwt_required: bool = Field(
        False,
        description="Whether callers without a token get 401. If not, they are anonymous and see public documents.",
    )
    claims_header: str = Field(
        "",
        description="Header in which a service mesh passes the verified claims (JSON in base64url). Set it only if the "
        "mesh removes the header from outside requests. Empty: no header is trusted.",
    )
    principal_secret: Annotated[
        Annotated[SecretStr, Field(min_length=32)] | None, BeforeValidator(lambda value: value or None)
    ] = Field(
        None,
        description="Key with which the services tell each other who calls, the same for all. At least 32 characters.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")
    log_format: LogFormat = Field("text", description="Log lines as text or as JSON.")

    @field_validator("tls_key_file")
    @classmethod
    def _has_certificate(cls, value: FilePath | None, info: ValidationInfo) -> FilePath | None:
        if "tls_cert_file" in info.data and (value is None) != (info.data["tls_cert_file"] is None):
            raise ValueError("set KSERVE_TLS_CERT_FILE and KSERVE_TLS_KEY_FILE, or neither")
        return value

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        if self.jwt_issuer and not (self.jwt_audience and self.jwks_url):
            raise ValueError("JWT_ISSUER needs JWT_AUDIENCE and JWKS_URL")
        if self.jwt_required and not self.identifies_callers:
            raise ValueError("JWT_REQUIRED needs JWT_ISSUER, CLAIMS_HEADER or PRINCIPAL_SECRET")
        return self

    @property
    def identifies_callers(self) -> bool:
        """Whether the service knows who calls. If so, callers see only the documents that they may read."""
        return bool(self.jwt_issuer or self.claims_header or self.principal_secret)

    @property
    def room(self) -> str:
        """The room's name, such as `vectorstore`: the audience of the principals that other services send."""
        return self.model_config.get("env_prefix", "").rstrip("_").lower()

    def known_hosts(self) -> frozenset[str] | None:
        """Allowed host names in lower case; None allows all."""
        if self.allowed_hosts:
            return frozenset(host.lower() for host in parts(self.allowed_hosts))
        if self.host in ("localhost", "::1") or self.host.startswith("127."):
            # Against DNS rebinding, by which another site could read the documents.
            return frozenset({"localhost", "127.0.0.1", "[::1]", self.host})
        return None


class ServerSettings(EdgeSettings):
    """Settings of a KServe service, which also serves gRPC."""

    grpc_port: int = Field(8081, ge=1, le=65535, description="Port for gRPC.")
    enable_grpc: bool = Field(True, description="Whether to serve gRPC.")


class SettingError(ValueError):
    """A setting is invalid. The message begins with the variable's name."""


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(kind: type[SettingsT], **overrides: object) -> SettingsT:
    """Like `read_settings`, but prints errors and exits with status 2."""
    try:
        return read_settings(kind, **overrides)
    except SettingError as error:
        print(error, file=sys.stderr)  # noqa: T201 - logging is not up yet
        raise SystemExit(2) from None


def read_settings(kind: type[SettingsT], **overrides: object) -> SettingsT:
    """Settings from the environment.

    Args:
        kind: the settings class.
        overrides: values with precedence over the environment, such as command-line options. None is ignored.

    Raises:
        SettingError: settings are invalid; the message has one line for each.
    """
    build: Callable[..., SettingsT] = kind
    try:
        return build(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        prefix, lines = kind.model_config.get("env_prefix", ""), []
        # An alias is the whole variable. pydantic reports it, or the field's name if the variable is not set.
        named = [(name, field.validation_alias) for name, field in kind.model_fields.items() if field.validation_alias]
        aliases = {key: str(alias) for name, alias in named for key in (name, alias)}
        for problem in error.errors():
            name = ".".join(str(part) for part in problem["loc"])
            if not name:  # a check of several settings, whose message begins with the first
                lines.append(prefix + problem["msg"].removeprefix("Value error, "))
                continue
            field = kind.model_fields.get(name.split(".")[0])
            hidden = problem["type"] == "missing" or (field is not None and "Secret" in str(field.annotation))
            shown = "" if hidden else f" (got {problem['input']!r})"
            variable = aliases.get(name) or f"{prefix}{name}".upper()
            lines.append(f"{variable}: {problem['msg']}{shown}")
        raise SettingError("\n".join(lines)) from None


def settings_of(kind: type[SettingsT], values: Mapping[str, object], *, prefix: str) -> SettingsT:
    """Settings from a configuration file alone, without the environment.

    Args:
        kind: the settings class.
        values: values by the names of its fields.
        prefix: precedes the names in messages.

    Raises:
        SettingError: a name is unknown or a value is invalid. The message has one line, and no values, because one may
            be a secret.
    """

    class FromFile(kind):  # type: ignore[misc, valid-type] # a class that is an argument
        model_config = SettingsConfigDict(extra="forbid", populate_by_name=True)

        @classmethod
        def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[PydanticBaseSettingsSource, ...]:
            return (sources["init_settings"],)

    try:
        settings: SettingsT = FromFile(**values)
    except ValidationError as error:
        known = ", ".join(kind.model_fields)
        raise SettingError(
            "; ".join(
                f"{prefix}{'.'.join(map(str, each['loc']))}: "
                + (f"is unknown. Known: {known}" if each["type"] == "extra_forbidden" else each["msg"])
                for each in error.errors(include_input=False)
            )
        ) from None
    return settings
