"""Objects in a bucket of Amazon S3, or of any server with its API: `s3://BUCKET/PREFIX`."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import botocore.config
import botocore.exceptions
import botocore.session
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from chassis.settings import BaseUrl, read_settings
from ingest.errors import SourceNotFoundError
from ingest.sources import Entry

_BLOCK_BYTES = 1024 * 1024
_FAILURES = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


class S3Settings(BaseSettings):
    """How buckets are read. Credentials come from AWS's standard chain, such as AWS_ACCESS_KEY_ID or a role."""

    model_config = SettingsConfigDict(env_prefix="INGEST_S3_")

    endpoint_url: BaseUrl | None = Field(None, description="URL of the server. Default: Amazon S3.")
    region: str | None = Field(None, description="Region. Default: that of the standard chain, else us-east-1.")
    path_style: bool = Field(
        False, description="Whether the bucket is in the path of requests instead of their host, as most servers want."
    )
    anonymous: bool = Field(False, description="Whether requests are unsigned, for public buckets.")
    document_url: str | None = Field(
        None, description="URL of a document, with {bucket} and {key}; for example https://docs.example.org/{key}."
    )
    max_bytes: int = Field(4 * 1024**3, ge=1, description="Maximum size of an object, in bytes.")
    timeout_s: float = Field(60, gt=0, le=3600, description="Maximum pause in a response, in seconds.")


class S3Source:
    """The objects below a prefix, named by their keys below it. Keys with a part that begins with a dot are ignored."""

    def __init__(self, location: str, cache: Path, settings: S3Settings | None = None) -> None:
        """Does no I/O. `location`: `s3://BUCKET/PREFIX`, where the prefix is a folder or a key.

        `settings`: by default from the environment; raises SettingError if they are invalid.
        """
        self._bucket, _, self._prefix = location.removeprefix("s3://").strip("/").partition("/")
        self._settings = settings or read_settings(S3Settings)
        self._objects = cache / "objects"
        self._stopped = threading.Event()
        self._client: Any = None
        self._etags: dict[str, str] = {}

    @property
    def location(self) -> str:
        """The URL of the bucket and prefix."""
        return "s3://" + "/".join(filter(None, (self._bucket, self._prefix)))

    @property
    def prefix(self) -> str:
        """Last part of the prefix, or the bucket."""
        return self._prefix.rpartition("/")[2] or self._bucket

    def list(self) -> Iterator[Entry]:
        """The objects, sorted by key. Raises SourceNotFoundError if the bucket does not exist or cannot be listed."""
        # Downloads of an earlier run: its index version has their documents.
        shutil.rmtree(self._objects, ignore_errors=True)
        try:
            pages = self._connected().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                if self._stopped.is_set():
                    raise SourceNotFoundError(f"{self.location}: interrupted")
                for found in page.get("Contents", ()):
                    if (entry := self._entry(found)) is not None:
                        yield entry
        except _FAILURES as error:
            raise SourceNotFoundError(f"{self.location}: {_reason(error)}") from error

    def token(self, entry: Entry) -> str:
        """The ETag, which the list has."""
        return self._etags[entry.key]

    def fetch(self, entry: Entry) -> Path:
        """Downloads the object, if it is still the listed one."""
        etag = self._etags[entry.key]
        path = self._objects / hashlib.sha256(f"{entry.key}\0{etag}".encode()).hexdigest()
        if path.is_file():
            return path
        self._objects.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        try:
            found = self._connected().get_object(Bucket=self._bucket, Key=_key(entry), IfMatch=f'"{etag}"')
            if found["ETag"].strip('"') != etag:
                raise OSError(5, "changed since it was listed")
            with temporary.open("wb") as file:
                for block in found["Body"].iter_chunks(_BLOCK_BYTES):
                    if self._stopped.is_set():
                        raise OSError(5, "interrupted")
                    file.write(block)
        except _FAILURES as error:
            raise OSError(5, _reason(error)) from error
        return temporary.replace(path)

    def close(self) -> None:
        """Stops a running `list` or `fetch` after its current block."""
        self._stopped.set()
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Any:
        if self._client is None:
            settings = self._settings
            session = botocore.session.get_session()
            config = botocore.config.Config(
                connect_timeout=10,
                read_timeout=settings.timeout_s,
                retries={"total_max_attempts": 3, "mode": "standard"},
                s3={"addressing_style": "path" if settings.path_style else "auto"},
                signature_version=botocore.UNSIGNED if settings.anonymous else None,
            )
            region = settings.region or session.get_config_variable("region") or "us-east-1"
            self._client = session.create_client(
                "s3", region_name=region, endpoint_url=settings.endpoint_url, config=config
            )
        return self._client

    def _entry(self, found: dict[str, Any]) -> Entry | None:
        key = found["Key"]
        if key != self._prefix and self._prefix and not key.startswith(f"{self._prefix}/"):
            return None  # `docs-old/…` below the prefix `docs`
        name = key[len(self._prefix) :].lstrip("/") or key.rpartition("/")[2]
        if name.endswith("/") or any(part.startswith(".") for part in name.split("/")):
            return None
        entry_key = f"s3://{self._bucket}/{key}"
        self._etags[entry_key] = found["ETag"].strip('"')  # some servers list it without quotes
        problem = None
        if found["Size"] > self._settings.max_bytes:
            problem = f"larger than {self._settings.max_bytes:,} bytes (INGEST_S3_MAX_BYTES)"
        template = self._settings.document_url
        url = template.replace("{bucket}", self._bucket).replace("{key}", quote(key)) if template else None
        return Entry(name, entry_key, problem, url=url)


def _key(entry: Entry) -> str:
    return entry.key.removeprefix("s3://").partition("/")[2]


def _reason(error: Exception) -> str:
    """The server's message, or the reason why there is none; without signatures or credentials."""
    if isinstance(error, botocore.exceptions.ClientError):
        details = error.response.get("Error", {})
        return f"{details.get('Code', 'error')}: {details.get('Message', '')}"[:300].rstrip(": ")
    return str(error).partition("\n")[0][:300]
