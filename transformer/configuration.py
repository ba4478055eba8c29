"""Configuration files: YAML or JSON, checked against a type."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from chassis.settings import SettingError

ConfigurationT = TypeVar("ConfigurationT", bound=BaseModel)


def read_configuration(path: Path, kind: type[ConfigurationT]) -> ConfigurationT:
    """The content of a file.

    Raises:
        SettingError: the file cannot be read or is invalid. The message names the file and the line or the field, and
            has no values, because one may be a secret.
    """
    try:
        return kind.model_validate(_parsed(path))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        raise SettingError(
            f"{path}: {where or 'the content'}: {problem['msg'].removeprefix('Value error, ')}"
        ) from None


def _parsed(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingError(f"{path}: is no UTF-8 text.") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise SettingError(f"{path}{where}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SettingError(f"{path}: {' '.join(str(error).split())}") from None
