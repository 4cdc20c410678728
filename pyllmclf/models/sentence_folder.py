"""The files of sentence-transformers in a model folder: how the model was trained to read a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.json_text import parse_json
from ..errors import ModelError

MODULES, SETTINGS, POOLING_CONFIG = "modules.json", "sentence_bert_config.json", "config.json"
PROMPTS = "config_sentence_transformers.json"
# Poolings of sentence-transformers that the engine has.
POOLINGS = {"mean_tokens": "mean", "cls_token": "first", "lasttoken": "last"}
SHORT = {"mean": "mean", "cls": "first", "lasttoken": "last"}  # as newer versions write it

Read = Callable[[str], "Path | None"]


@dataclass(frozen=True)
class SentenceSettings:
    """How a sentence-transformers model reads a text.

    Attributes
    ----------
    pooling : str or None
        ``None`` where the engine lacks it.
    obstacle : str or None
        What the engine lacks, as a clause for a message.
    max_length : int or None
        Most tokens of a text, special ones included.
    lower_case : bool
        Whether texts become lower case before they are tokenized.
    pools_prompt : bool
        Whether the pooling reads the prompt's tokens too.
    """

    pooling: str | None
    obstacle: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    pools_prompt: bool = True


def read_sentence_settings(find: Read) -> SentenceSettings | None:
    """Reads the files of sentence-transformers; ``None`` where the model has none.

    Parameters
    ----------
    find : callable
        Takes a file's name; returns its path, or ``None`` without such a file.

    Raises
    ------
    ModelError
        If a file is damaged.
    """
    path = find(MODULES)
    if path is None:
        return None
    modules = _read(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(f"{path}: not a list of modules.")
    kinds = [(str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))) for module in modules]
    pooling, obstacle, pools_prompt = None, "has no pooling", True
    for kind, folder in kinds:
        if kind == "Pooling":
            file = find(f"{folder}/{POOLING_CONFIG}")
            if file is None:
                raise ModelError(f"{path}: {folder}/{POOLING_CONFIG} is missing.")
            config = _read(file)
            pooling, obstacle = _pooling(config, str(file))
            pools_prompt = config.get("include_prompt") is not False
    further = [kind for kind, _ in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if further:
        pooling, obstacle = None, f"has a {further[0]} module"
    settings_file = find(SETTINGS)
    settings = {} if settings_file is None else _read(settings_file)
    if not isinstance(settings, dict):
        raise ModelError(f"{settings_file}: not a JSON object.")
    longest = settings.get("max_seq_length")
    return SentenceSettings(
        pooling,
        None if pooling is not None else obstacle,
        longest if type(longest) is int and longest > 0 else None,
        settings.get("do_lower_case") is True,
        pools_prompt,
    )


def read_default_prompt(find: Read) -> tuple[str, str | None]:
    """The prompt that sentence-transformers puts before a text unless another one is named.

    Parameters
    ----------
    find : callable
        As for :func:`read_sentence_settings`.

    Returns
    -------
    prompt : str
        Empty for none.
    obstacle : str or None
        Why the prompt is missing although the file names one, as a clause for a message.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    path = find(PROMPTS)
    config = {} if path is None else _read(path)
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object.")
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if name is None:
        return "", None
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        return "", f"{path}: default_prompt_name is {name!r:.60}, and prompts has no string of that name"
    return prompt, None


def sentence_files(pooling: str, max_length: int) -> dict[str, str]:
    """Content of each file, by name, that :func:`read_sentence_settings` reads as these settings."""
    mode = next(name for name, own in POOLINGS.items() if own == pooling)
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(paths.items())
    ]
    contents = {
        MODULES: modules,
        f"{paths['Pooling']}/{POOLING_CONFIG}": {f"pooling_mode_{mode}": True},
        SETTINGS: {"max_seq_length": max_length, "do_lower_case": False},
    }
    return {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}


def prompt_file(prompt: str) -> str:
    """Content of the file that :func:`read_default_prompt` reads as this prompt."""
    return json.dumps({"prompts": {"default": prompt}, "default_prompt_name": "default"}, indent=2) + "\n"


def _pooling(config: Any, origin: str) -> tuple[str | None, str]:
    """The pooling of a configuration, or ``None`` and what the engine lacks."""
    if not isinstance(config, dict):
        raise ModelError(f"{origin}: not a JSON object.")
    if isinstance(config.get("pooling_mode"), str):
        mode = config["pooling_mode"]
        return SHORT.get(mode), f"pools by {mode}"
    modes = [key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on]
    if len(modes) == 1:
        return POOLINGS.get(modes[0]), f"pools by {modes[0]}"
    return None, f"pools by {' and '.join(modes) or 'nothing'}"


def _read(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read ({error}).") from error
