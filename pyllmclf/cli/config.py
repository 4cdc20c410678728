"""Reads the options of a command from a TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from ..errors import UsageError
from ..paths import user_path
from ..suggestions import meant

# Tables of the file that stand for options: name -> function from the table to options and values.
TABLES = {
    "lora": lambda table: {f"lora_{name.replace('-', '_')}": _joined(value) for name, value in table.items()},
    "class_weights": lambda table: {"class_weights": ",".join(f"{name}={weight}" for name, weight in table.items())},
}


def from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Makes a file's entries the defaults of the command's options; the command line overrides them.

    Parameters
    ----------
    context : typer.Context
        Of the command whose option ``--config`` calls this function.
    path : Path or None

    Returns
    -------
    Path or None
        ``path``, the value of the option.

    Raises
    ------
    UsageError
        If the file can't be read, or an entry is no option or is repeated.
    """
    if path is None:
        return None
    path = user_path(path)
    # By their spellings on the command line: --json sets as_json.
    options = {
        spelling.lstrip("-").replace("-", "_"): p
        for p in context.command.params
        if p.name not in ("config", "help")
        for spelling in (*p.opts, *p.secondary_opts)
    }
    defaults: dict[str, Any] = {}
    for name, value in _read(path).items():
        key = name.replace("-", "_")
        as_table = key in TABLES and isinstance(value, dict)
        for option, setting in (TABLES[key](value) if as_table else {key: value}).items():
            shown = f"{name}.{option.removeprefix('lora_')}" if as_table and key == "lora" else name
            if option not in options:
                match = meant(option, [name for name in options if not name.startswith("no_")])
                hint = "see --help." if match is None else f"{match!r} is meant."
                raise UsageError(f"--config {path}: {shown!r} is no option of this command; {hint}")
            if option == "text_column":
                setting = _joined(setting)
            if isinstance(setting, (dict, list)):
                raise UsageError(f"--config {path}: {shown!r} must be a single value.")
            parameter = options[option]
            if parameter.name in defaults:
                raise UsageError(f"--config {path}: {shown!r} repeats another entry; leave one of them out.")
            negated = f"--{option.replace('_', '-')}" in parameter.secondary_opts  # e.g. --no-progress
            defaults[parameter.name] = not setting if negated and isinstance(setting, bool) else setting
    context.default_map = {**(context.default_map or {}), **defaults}
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


def _joined(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, list) else value
