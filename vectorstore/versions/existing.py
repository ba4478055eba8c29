"""The file of an index whose chunks another program stored: `existing.json` in the index's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vectorstore.errors import DamagedIndexError
from vectorstore.stores import STORES

EXISTING_FILE = "existing.json"


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names), Field(min_length=1)]
"""One name, or several: the first one that a record has counts."""


class ExistingCollection(BaseModel):
    """A collection of a store that is searched as it is, and never written. `id` also names a record's id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: Annotated[str, BeforeValidator(STORES.check)]
    """Kind of store, whose own variables say where it is."""
    collection: Annotated[str, Field(min_length=1)]
    """Name of the collection, or of the namespace."""
    embedder: Annotated[str, Field(min_length=1)]
    """Name of the model that embedded the texts, such as `all-MiniLM-L6-v2`, or the embedder's whole fingerprint."""
    text: Names = ("text", "page_content", "document", "content", "Content")
    """Field with the text. LangChain's Chroma and Milvus, doc-bot and lab collections need no other."""
    title: Names = ("title", "Title")
    url: Names = ("url", "URL", "link", "source", "file_path", "id")
    """Field with the address. A value without http:// or https:// is not shown as one."""
    source: Names = ("source", "file_path", "id")
    """Field with the file, whose name is the title of a record that has none."""

    def was_filled_by(self, fingerprint: str) -> bool:
        """Whether an embedder with this fingerprint filled the collection. Names match with and without owner."""
        name, own = fingerprint.partition("@")[0], self.embedder
        return own == fingerprint or own.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()


def read_existing(folder: Path) -> ExistingCollection | None:
    """The collection that the index in `folder` serves; None if the index is built from documents.

    Raises:
        DamagedIndexError: the file cannot be read, or a field is invalid.
    """
    path = folder / EXISTING_FILE
    try:
        return ExistingCollection.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedIndexError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DamagedIndexError(f"{path}: {where}: {first['msg']}.") from error
