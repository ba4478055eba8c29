"""`kserve-rag models` and `kserve-rag models fetch`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from kserve_rag.cli.shared import console, format_size, read_settings
from kserve_rag.errors import UsageError

app = typer.Typer(help="List and fetch models.", invoke_without_command=True)


@app.callback()
def models(context: typer.Context) -> None:
    """List the known models with size, licence, and whether they are on this machine.

    [bold]Examples[/]

      kserve-rag models
      kserve-rag models fetch qwen2.5-0.5b
      kserve-rag up --model qwen2.5-0.5b
    """
    if context.invoked_subcommand is not None:
        return
    from rich.padding import Padding

    from kserve_rag.local.launcher import model_store

    store = model_store(read_settings())
    defaults = set(store.catalogue.defaults.values())
    width = max(map(len, store.catalogue.models))
    for name, model in store.catalogue.models.items():
        here = "[green]here[/]" if store.cached(name) else "    "
        default = ", the default" if name in defaults else ""
        console.print(f"[bold]{name:<{width}}[/]  {format_size(model.size_bytes):>6}  {here}  {model.kind}{default}")
        about = Padding(f"{model.summary} [dim]({model.licence})[/]", (0, 0, 0, 4), expand=False)
        console.print(about, soft_wrap=False)


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="A name that `kserve-rag models` lists.")]) -> None:
    """Fetch a model, so that `up` needs no network.

    [bold]Example[/]

      kserve-rag models fetch bge-m3
    """
    from kserve_rag.cli.progress import ProgressDisplay
    from kserve_rag.local.launcher import model_store

    with ProgressDisplay(console) as display:
        store = model_store(read_settings(), display)
        model = store.catalogue.models.get(name)
        if model is None:
            raise UsageError(f"There is no model {name!r}. `kserve-rag models` lists them.")
        folder = store.materialise(name, model.kind)
    console.print(f"{name} is in {escape(str(folder.path))}")
