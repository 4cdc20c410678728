"""Tokens in the post-processor's template of a ``tokenizer.json``: a prompt, or the separator of pairs of texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ...errors import ModelError

# Names of the prompt's tokens in the template of a ``tokenizer.json``. With the second one, the file's normalizer puts
# the white space at the prompt's end before the text, whose tokens need it (byte-level encodings).
MARKS = ("pyllmclf prompt: ", "pyllmclf prompt before white space: ")


def with_template(content: str, prompt: str, ids: list[int], space: str = "") -> str | None:
    """Puts a prompt's tokens before each text of a ``tokenizer.json``.

    Parameters
    ----------
    content : str
        A ``tokenizer.json`` without a prompt.
    prompt : str
    ids : list of int
        The prompt's tokens.
    space : str
        White space that the normalizer puts before each text, if any.

    Returns
    -------
    str or None
        ``None`` if the post-processor is of a kind that has no place for them.
    """
    parsed = json.loads(content)
    if not ids:
        return content if not space else None
    parsed["post_processor"] = post = _as_template(parsed.get("post_processor"))
    if post is None:
        return None
    template, name = _template_of(post), MARKS[bool(space)] + prompt
    template["special_tokens"][name] = {"id": name, "ids": ids, "tokens": _names(parsed, ids)}
    for kind in ("single", "pair"):
        pieces = template[kind]
        place = next((i for i, piece in enumerate(pieces) if "Sequence" in piece), 0)
        template[kind] = [*pieces[:place], {"SpecialToken": {"id": name, "type_id": 0}}, *pieces[place:]]
    if space:
        own = parsed.get("normalizer")
        normalizers = [{"type": "Prepend", "prepend": space}, *([] if own is None else [own])]
        parsed["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    return json.dumps(parsed, ensure_ascii=False)


def with_separator(content: str, token: int) -> str:
    """Puts a token between the two texts of a pair, all of whose tokens then have type 0.

    Parameters
    ----------
    content : str
        A ``tokenizer.json`` whose template of pairs has nothing between the texts.
    token : int

    Raises
    ------
    ModelError
        If the post-processor is of a kind that has no place for it.
    """
    parsed = json.loads(content)
    parsed["post_processor"] = post = _as_template(parsed.get("post_processor"))
    if post is None:
        raise ModelError("the tokenizer's post-processor has no template, which pairs of texts need.")
    template, (name,) = _template_of(post), _names(parsed, [token])
    template["special_tokens"][name] = {"id": name, "ids": [token], "tokens": [name]}
    pieces = [{kind: value | {"type_id": 0} for kind, value in piece.items()} for piece in template["pair"]]
    second = next(i for i, piece in enumerate(pieces) if piece.get("Sequence", {}).get("id") == "B")
    template["pair"] = [*pieces[:second], {"SpecialToken": {"id": name, "type_id": 0}}, *pieces[second:]]
    return json.dumps(parsed, ensure_ascii=False)


def split_prompt(content: str) -> tuple[str, str]:
    """Takes the prompt out of a ``tokenizer.json`` that :func:`with_template` has made.

    Parameters
    ----------
    content : str

    Returns
    -------
    content : str
        Without the prompt; the same without one.
    prompt : str
        Empty if there is none.
    """
    if not any(f'"{mark}' in content for mark in MARKS):
        return content, ""
    try:
        parsed = json.loads(content)
        template = _template_of(parsed.get("post_processor"))
        name = next(name for name in template["special_tokens"] if name.startswith(MARKS))
    except (ValueError, AttributeError, TypeError, KeyError, StopIteration):
        return content, ""  # a vocabulary with such a word, or a file that the library refuses
    del template["special_tokens"][name]
    for kind in ("single", "pair"):
        template[kind] = [piece for piece in template[kind] if piece.get("SpecialToken", {}).get("id") != name]
    mark = next(mark for mark in MARKS if name.startswith(mark))
    if mark == MARKS[1]:
        _, *others = parsed["normalizer"]["normalizers"]
        parsed["normalizer"] = others[0] if others else None
    return json.dumps(parsed, ensure_ascii=False), name.removeprefix(mark)


def _names(tokenizer: dict[str, Any], ids: Sequence[int]) -> list[str]:
    """Texts of tokens; the library takes seconds to open a large vocabulary for them."""
    vocabulary = tokenizer["model"]["vocab"]  # a list of [text, score] for Unigram, otherwise text to id
    if isinstance(vocabulary, list):
        names = {number: text for number, (text, _) in enumerate(vocabulary)}
    else:
        names = {number: text for text, number in vocabulary.items()}
    names |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    return [names[number] for number in ids]


def _template_of(post: Any) -> dict[str, Any]:
    """The template of a post-processor, which is one or a sequence that ends with one."""
    return post["processors"][-1] if post["type"] == "Sequence" else post


def _as_template(post: Any) -> dict[str, Any] | None:
    """A post-processor of the same tokens that is a template, or a sequence that ends with one; ``None`` if none is."""
    kind = None if post is None else post["type"]
    if kind == "TemplateProcessing" or (
        kind == "Sequence" and post["processors"] and post["processors"][-1]["type"] == "TemplateProcessing"
    ):
        return post
    first, second = ({"Sequence": {"id": name, "type_id": type_id}} for name, type_id in (("A", 0), ("B", 1)))
    bare: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": [first],
        "pair": [first, second],
        "special_tokens": {},
    }
    if kind is None:
        return bare
    if kind == "ByteLevel":  # which changes offsets alone
        return {"type": "Sequence", "processors": [post, bare]}
    if kind not in ("BertProcessing", "RobertaProcessing"):
        return None
    tokens = {name: {"id": name, "ids": [number], "tokens": [name]} for name, number in (post["cls"], post["sep"])}
    cls, sep = ({"SpecialToken": {"id": post[key][0], "type_id": 0}} for key in ("cls", "sep"))
    if kind == "BertProcessing":
        end = {"SpecialToken": {"id": post["sep"][0], "type_id": 1}}
        pair = [cls, first, sep, second, end]
    else:  # RoBERTa has one type of tokens, and two separators between texts
        pair = [cls, first, sep, sep, {"Sequence": {"id": "B", "type_id": 0}}, sep]
    return bare | {"single": [cls, first, sep], "pair": pair, "special_tokens": tokens}
