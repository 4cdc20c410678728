"""Options of a command from a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from ..errors import UsageError

# Options that a table of the file gives: name of the table -> what turns it into options.
TABLES = {
    "lora": lambda table: {f"lora_{name}": _listed(value) for name, value in table.items()},
    "class_weights": lambda table: {"class_weights": ",".join(f"{name}={weight}" for name, weight in table.items())},
}


def from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Makes a file's entries the defaults of the command; what is given on the command line counts first.

    Raises
    ------
    UsageError
        If the file can't be read, or names no option.
    """
    if path is None:
        return None
    options = {p.name for p in context.command.params if p.name not in ("config", "help")}
    found: dict[str, Any] = {}
    for name, value in _read(path).items():
        key = name.replace("-", "_")
        given = TABLES[key](value) if key in TABLES and isinstance(value, dict) else {key: value}
        for option, setting in given.items():
            if option not in options:
                raise UsageError(f"--config {path}: {name!r} is no option of this command; --help lists what there is.")
            if isinstance(setting, (dict, list)):
                raise UsageError(f"--config {path}: {name!r} must be a single value.")
            found[option] = setting
    context.default_map = {**(context.default_map or {}), **found}
    return path


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} can't be read ({error}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not a TOML file ({error}).") from error


def _listed(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value
