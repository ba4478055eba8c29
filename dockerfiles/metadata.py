"""Writes the distribution metadata of kserve-rag for packages that a Dockerfile copies instead of installing.

`importlib.metadata` then finds the version and the entry points, by which the registries find their members.

    python metadata.py SITE_PACKAGES      in a folder with pyproject.toml

Source: https://packaging.python.org/specifications/recording-installed-packages/
"""

import sys
from pathlib import Path

import tomllib

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
folder = Path(sys.argv[1]) / f"kserve_rag-{project['version']}.dist-info"
folder.mkdir()
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
with (folder / "entry_points.txt").open("w") as file:
    for group, members in project.get("entry-points", {}).items():
        file.write(f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in members.items()))
