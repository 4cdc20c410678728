"""Errors of the command line itself, as one sentence that suggests what may be meant."""

from __future__ import annotations

import re
from typing import Any

from ..errors import UsageError
from ..suggestions import closest, meant

LISTED = "--help lists the commands and options"
# Other words for commands.
COMMANDS = {
    "evaluate": "eval", "test": "eval", "train": "finetune", "fit": "finetune", "fine-tune": "finetune",
    "classify": "predict", "infer": "predict", "check": "validate", "convert": "export", "env": "info",
}  # fmt: skip


def command_line_error(error: Exception) -> UsageError | None:
    """Converts an error of Typer's parser; ``None`` if the error is another one."""
    # Typer vendors Click, or uses the installed one; the errors of both have this method.
    if not hasattr(error, "format_message"):
        return None
    command: Any = getattr(getattr(error, "ctx", None), "command", None)
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and isinstance(option, str):
        return UsageError(f"there is no option {option}{_meant(_option(option, command))}; {LISTED}.")
    message = error.format_message().rstrip(".?")
    if unknown := re.match("No such command '(.*?)'", message):
        match = COMMANDS.get(unknown[1]) or closest(unknown[1], getattr(command, "commands", {}))
        return UsageError(f"there is no command {unknown[1]!r}{_meant(match)}; {LISTED}.")
    return UsageError(f"{message}; {LISTED}.")


def _option(name: str, command: Any) -> str | None:
    """The option of a command that ``name`` may stand for."""
    parameters = getattr(command, "params", ())
    spellings = [each for parameter in parameters for each in (*parameter.opts, *parameter.secondary_opts)]
    by_name = {each.removeprefix("--").replace("-", "_"): each for each in spellings if each.startswith("--")}
    match = meant(name.lstrip("-"), by_name)
    return None if match is None else by_name[match]


def _meant(match: str | None) -> str:
    return "" if match is None else f" (did you mean {match}?)"
