"""`kserve-rag access`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from kserve_rag.cli.shared import console, read_settings
from kserve_rag.errors import UsageError


def access(
    path: Annotated[
        str | None, typer.Argument(help="A file of the index, a folder such as hr/, or / for everything.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="Who may read: user:NAME, group:NAME, signed-in or anyone.", metavar="WHO"),
    ] = None,
    deny: Annotated[list[str] | None, typer.Option(help="Who may not read, whatever allows it.", metavar="WHO")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the rule.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show or change who may read the documents of the index.

    A rule replaces the previous one for the same path. It holds from the next request on, for all versions of the
    index. The nearest rule with --allow decides; every --deny above a file counts. Without a rule, everybody may read.
    Services apply the rules if they identify callers (docs/guides/access.md).

    [bold]Examples[/]

      kserve-rag access / --allow signed-in
      kserve-rag access hr/ --allow group:hr --deny user:bob
      kserve-rag access hr/ --clear
    """
    from vectorstore.errors import DamagedAccessError, InvalidAccessError
    from vectorstore.versions import AccessFile, Acl

    settings = read_settings()
    rules = AccessFile(settings.indexes / settings.index_name)
    if path is None and (allow or deny or clear):
        raise UsageError("Name the path of the rule: a file, a folder such as hr/, or / for everything.")
    if path is not None and clear == bool(allow or deny):
        raise UsageError("Say who may read with --allow and --deny, or remove the rule with --clear.")
    try:
        if path is not None:
            place = "" if path == "/" else path
            with rules.changing() as changed:
                if not clear:
                    allowed = None if allow is None else frozenset(allow)
                    changed[place] = Acl.model_construct(allow=allowed, deny=frozenset(deny or ()))
                elif changed.pop(place, None) is None:
                    raise UsageError(f"There is no rule for {path}. `kserve-rag access` lists the rules.")
        current = rules.read()
    except (DamagedAccessError, InvalidAccessError) as error:
        raise UsageError(error.message) from error
    if as_json:
        sys.stdout.write(current.model_dump_json(indent=2) + "\n")
        return
    if not current.rules:
        console.print("There are no rules: everybody may read every document.")
    for place, rule in sorted(current.rules.items()):
        parts = [("allow", rule.allow), ("deny", rule.deny)]
        said = [f"{verb} {', '.join(sorted(who))}" for verb, who in parts if who]
        console.print(f"{escape(place or '/')} [dim]{escape('; '.join(said) or 'allow nobody')}[/]")
