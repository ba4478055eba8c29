"""A gateway in front of a real server: it demands a header, speaks TLS if asked to, and may keep silent."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import aiohttp
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.loopback import ThreadedServer


class Gateway(ThreadedServer):
    """Forwards requests to `upstream` if they have the header; others get a 401."""

    def __init__(self, upstream: str, header: str, value: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._upstream = upstream
        self._header = header
        self._value = value
        self.silent = False
        """Whether to leave requests without a response."""

    def application(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", "/{path:.*}", self._forward)
        return app

    async def _forward(self, request: web.Request) -> web.Response:
        if self.silent:
            await asyncio.Event().wait()
        if request.headers.get(self._header) != self._value:
            return web.json_response({"error": "who are you?"}, status=401)
        headers = {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession(self._upstream, headers=headers) as session,
            session.request(request.method, request.raw_path, data=await request.read()) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read())


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """The TLS context of a server at 127.0.0.1, and the file with the certificate that verifies it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    certificate_file, key_file = folder / "server.pem", folder / "server.key"
    certificate_file.write_bytes(signed.public_bytes(encoding))
    key_file.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, no_password))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file
