"""The rights of a caller of the service: the files and tasks that it sees and changes.

An identified caller uploads into a folder of its own, which only it may read unless the request names other readers. It
sees the files that the rules of the index allow, and the tasks about them. Managers see and change everything.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath

from chassis.errors import ForbiddenError, UnauthorizedError
from chassis.principal import Principal
from ingest.sources import UPLOADS
from ingest.wire import Task
from vectorstore.versions import AccessFile, AccessRules, Acl, admits, names_of


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller of a service that identifies its callers. None instead of it: every caller may do everything."""

    principal: Principal | None
    is_manager: bool

    @property
    def folder(self) -> str:
        """Folder of its uploads in the index. Raises UnauthorizedError if the caller is anonymous."""
        if self.principal is None:
            raise UnauthorizedError(
                "Only identified callers can change documents: send a token.", field="authorization"
            )
        return f"{UPLOADS}/{sha256(self.principal.subject.encode()).hexdigest()[:16]}"

    def sees(self, rules: AccessRules, source: str) -> bool:
        """Whether it may read a file."""
        return self.is_manager or admits(rules.decision(source), names_of(self.principal))

    def sees_task(self, rules: AccessRules, task: Task) -> bool:
        """Whether it may read a task: only managers see those about the whole index."""
        return self.is_manager or (bool(task.sources) and all(self.sees(rules, source) for source in task.sources))

    def check_owns(self, sources: Collection[str]) -> None:
        """Raises ForbiddenError if it may not change these files."""
        if not self.is_manager and {folder_of(source) for source in sources} != {self.folder}:
            raise ForbiddenError("Only the caller who uploaded these files, or a manager, can change them.")

    def check_manages(self) -> None:
        """Raises ForbiddenError if it may not change the whole index."""
        if not self.is_manager:
            raise ForbiddenError("Only managers can do this: the setting INGEST_MANAGERS names them.")


def folder_of(source: str) -> str:
    """Folder of a file in the index."""
    return PurePosixPath(source).parent.as_posix()


def share(file: AccessFile, caller: Caller, sources: Sequence[str], readers: Collection[str]) -> None:
    """Writes the rules of uploaded files: readable by the caller, or by `readers` if there are some. Blocks.

    Raises:
        InvalidAccessError: a reader is malformed.
    """
    if caller.principal is None:
        return
    with file.changing() as rules:
        own = Acl.model_construct(allow=frozenset((f"user:{caller.principal.subject}",)), deny=frozenset())
        rules.setdefault(f"{caller.folder}/", own)
        for source in sources:
            denied = rules[source].deny if source in rules else frozenset[str]()
            if readers or denied:
                rules[source] = Acl.model_construct(allow=frozenset(readers) if readers else None, deny=denied)
            else:
                rules.pop(source, None)
