"""Fields of requests, with a sentence for each that is missing or of another type."""

from __future__ import annotations

from typing import Any

from ...printable import shown
from ...text_pair import Text, TextPair
from ..errors import RequestError


def texts_of(content: dict[str, Any], name: str, *, pairs: bool = False) -> tuple[list[Text], bool]:
    """The texts of a field, and whether it is one text rather than a list.

    Parameters
    ----------
    content : dict
    name : str
    pairs : bool
        Whether texts are pairs: lists of two texts.

    Raises
    ------
    RequestError
        400 if the field is missing, or holds something else.
    """
    what = "a list of pairs of texts, [[text, pair], ...]" if pairs else "a text or a list of texts"
    if name not in content:
        raise RequestError(400, f"the field {name!r} is missing; it is {what}.")
    value = content[name]
    if pairs and isinstance(value, (str, list)):
        return _pairs_of(value, name), False
    if isinstance(value, str):
        return [value], True
    if not isinstance(value, list):
        raise RequestError(400, f"{name} must be {what}, not {_kind(value)}.")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise RequestError(400, f"{name}[{i}] must be a text, not {_kind(text)}.")
    return value, False


def _pairs_of(value: str | list[Any], name: str) -> list[Text]:
    for i, pair in enumerate([value] if isinstance(value, str) else value):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            where = name if isinstance(value, str) else f"{name}[{i}]"
            raise RequestError(400, f"{where} must be a pair of texts, [text, pair]: the classifier reads pairs.")
    return [TextPair(*pair) for pair in value]


def flag_of(content: dict[str, Any], name: str) -> bool:
    """A field that is true or false, false by default.

    Raises
    ------
    RequestError
        400 if it is neither.
    """
    value = content.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestError(400, f"{name} must be true or false, not {shown(value)}.")
    return value


def model_of(content: dict[str, Any]) -> str | None:
    """The name of the model; ``None`` where none is named.

    Raises
    ------
    RequestError
        400 if it is no text.
    """
    value = content.get("model")
    if value is not None and not isinstance(value, str):
        raise RequestError(400, f"model must be a name, not {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), "a text")
