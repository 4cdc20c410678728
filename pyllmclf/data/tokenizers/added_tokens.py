"""Special and added tokens that a tokenizer's configuration names, as transformers adds them to a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ..json_text import parse_json

if TYPE_CHECKING:
    import tokenizers

CONFIG_FILE = "tokenizer_config.json"
# Files of versions of transformers that wrote no ``added_tokens_decoder``.
SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE = "special_tokens_map.json", "added_tokens.json"
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("additional_special_tokens", "extra_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Content of ``tokenizer_config.json``; empty if there is none.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    content = _read(folder / CONFIG_FILE)
    return {} if content is None else content


def configured_tokens(folder: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tokens that a folder's tokenizer has beside its vocabulary, in the order of their ids.

    Parameters
    ----------
    folder : Path
        ``special_tokens_map.json`` and ``added_tokens.json`` are read where the configuration lists no added tokens.
    config : mapping
        Content of ``tokenizer_config.json``.

    Returns
    -------
    list of dict
        Arguments of ``tokenizers.AddedToken``; each text occurs once.

    Raises
    ------
    ModelError
        If a file is damaged, or a token malformed.
    """
    origin = folder / CONFIG_FILE
    decoder, special = config.get("added_tokens_decoder"), dict(config)
    if decoder is None:
        special |= _read(folder / SPECIAL_TOKENS_FILE) or {}
    named = [special[name] for name in NAMED if special.get(name) is not None]
    for name in LISTS:
        values = special.get(name) or []
        named += list(values.values()) if isinstance(values, dict) else values if isinstance(values, list) else [values]
    marked = [_added_token(token, special=True, origin=origin) for token in named]
    tokens: dict[str, dict[str, Any]] = {}
    if decoder is not None:
        if not isinstance(decoder, dict):
            raise ModelError(f"{origin}: added_tokens_decoder is {decoder!r:.60}, not an object.")
        for index in sorted(decoder, key=lambda key: _index(key, origin)):
            token = _added_token(decoder[index], special=False, origin=origin)
            tokens.setdefault(token["content"], token)
    else:
        texts = {token["content"] for token in marked}
        added = _read(folder / ADDED_TOKENS_FILE) or {}
        for text in sorted(added, key=lambda key: _index(added[key], folder / ADDED_TOKENS_FILE)):
            token = _added_token(text, special=text in texts, origin=folder / ADDED_TOKENS_FILE)
            tokens.setdefault(text, token)
    for token in marked:
        tokens.setdefault(token["content"], token)["special"] = True
    return list(tokens.values())


def add_tokens(tokenizer: tokenizers.Tokenizer, tokens: list[dict[str, Any]]) -> None:
    """Adds tokens that the tokenizer lacks; those that it has as added tokens stay as they are."""
    from tokenizers import AddedToken

    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([AddedToken(**token) for token in tokens if token["content"] not in present])


def with_flags(content: str, tokens: Sequence[dict[str, Any]]) -> str:
    """A ``tokenizer.json`` whose added tokens have the flags of the same texts in ``tokens``.

    For tokenizers that are made of a vocabulary: their own special tokens are only defaults.
    """
    flags = {token["content"]: token for token in tokens}
    parsed = json.loads(content)
    parsed["added_tokens"] = [entry | flags.get(entry["content"], {}) for entry in parsed["added_tokens"]]
    return json.dumps(parsed, ensure_ascii=False)


def _added_token(token: Any, *, special: bool, origin: Path) -> dict[str, Any]:
    fields: dict[str, Any] = token if isinstance(token, dict) else {"content": token}
    content = fields.get("content")
    if not isinstance(content, str) or not content:
        raise ModelError(f"{origin}: {json.dumps(token)[:60]} is no token: it has no text.")
    flags = {name: fields[name] for name in FLAGS if name in fields}
    special = fields.get("special", special)
    if not all(isinstance(value, bool) for value in (*flags.values(), special)):
        raise ModelError(f"{origin}: the token {content!r} has a flag that is neither true nor false.")
    return {"content": content, "special": special, "normalized": not special} | flags


def _index(value: Any, origin: Path) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"{origin}: {value!r:.60} is not the id of a token.") from error


def _read(path: Path) -> dict[str, Any] | None:
    """Content of a JSON object; ``None`` if there is no such file."""
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: not a JSON object.")
    return content
