"""The Dockerfiles as data, parsed with dockerfile-parse."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

from dockerfiles.build import FOLDER

LIGHT = ("transformer", "vectorstore", "ingest", "frontend")
"""Services without a model."""
WITH_TRITON = ("embedder", "predictor-cpu")
"""Triton from its wheel, on CPUs."""
ON_GPUS = "embedder-gpu"
"""Triton from its wheel, with torch and CUDA."""


@dataclass(frozen=True)
class Step:
    """One instruction, with its lines joined."""

    instruction: str
    value: str

    @property
    def words(self) -> list[str]:
        """The words of a COPY, ENV, LABEL or EXPOSE, without quotes."""
        return [word.replace('"', "") for word in re.findall(r'(?:[^\s"]|"[^"]*")+', self.value)]

    @property
    def arguments(self) -> list[str]:
        """The arguments of an ENTRYPOINT or CMD.

        Raises:
            ValueError: it is not in exec form.
        """
        arguments = json.loads(self.value)
        if not isinstance(arguments, list):
            raise ValueError(f"{self.instruction} {self.value}")
        return [str(argument) for argument in arguments]


@dataclass(frozen=True)
class Stage:
    """The steps after a FROM."""

    base: str
    """An image, or the name of an earlier stage."""
    name: str | None
    steps: tuple[Step, ...]

    def all(self, instruction: str) -> list[Step]:
        """All steps with this instruction."""
        return [step for step in self.steps if step.instruction == instruction]

    def only(self, instruction: str) -> Step:
        """The only step with this instruction.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = self.all(instruction)
        if len(found) != 1:
            raise LookupError(f"{instruction}: {len(found)} times, expected once")
        return found[0]

    def pairs(self, instruction: str) -> dict[str, str]:
        """Names and values of all ENV, LABEL or ARG steps."""
        return dict(word.split("=", 1) for step in self.all(instruction) for word in step.words)


@dataclass(frozen=True)
class Recipe:
    """A Dockerfile."""

    service: str
    path: Path
    stages: tuple[Stage, ...]

    @classmethod
    def read(cls, service: str) -> Recipe:
        """`dockerfiles/<service>.Dockerfile`."""
        path = FOLDER / f"{service}.Dockerfile"
        stages: list[Stage] = []
        steps: list[Step] = []
        base, name = "", None
        for entry in DockerfileParser(fileobj=io.BytesIO(path.read_bytes())).structure:
            if entry["instruction"] == "COMMENT":
                continue
            if entry["instruction"] != "FROM":
                steps.append(Step(entry["instruction"], entry["value"]))
                continue
            if base:
                stages.append(Stage(base, name, tuple(steps)))
            words = entry["value"].split()
            base, name, steps = words[0], words[2] if len(words) == 3 else None, []
        return cls(service, path, (*stages, Stage(base, name, tuple(steps))))

    @property
    def build(self) -> Stage:
        """The stage called `build`.

        Raises:
            LookupError: there is none.
        """
        for stage in self.stages:
            if stage.name == "build":
                return stage
        raise LookupError(f"{self.path.name} has no stage called build")

    @property
    def final(self) -> Stage:
        """The stage that becomes the image."""
        return self.stages[-1]
