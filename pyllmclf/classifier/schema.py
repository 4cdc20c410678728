"""The schema of ``pyllmclf.json`` and of ``training_state/state.json``: every field, declared once with its check.

Checkpoints are written from it and read by it. A field that a later version adds is ignored.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from ..choices import LongTexts, PairTruncation, Pooling, words
from ..data.json_text import is_unicode
from ..data.labels import checked_classes
from ..data.readers import Label
from ..errors import ModelError, UsageError
from ..lora_config import LoRAConfig
from ..models.config import MOST, is_number
from ..settings import Settings, check_argument
from .held_out import WHOSE

FORMAT_VERSION = 1
# Of classifiers that skip the pooler, so that versions that know no such ones refuse them.
WITHOUT_POOLER = 2
# Of classifiers with a prompt before each text, likewise.
WITH_PROMPT = 3
# Of classifiers of pairs of texts, likewise.
WITH_PAIRS = 4
# Of classifiers with rules by which texts get no answer, or another one than the most probable class, likewise.
WITH_DECISIONS = 5
VERSIONS = (FORMAT_VERSION, WITHOUT_POOLER, WITH_PROMPT, WITH_PAIRS, WITH_DECISIONS)
# Takes a value; returns what it must be, where it is not.
Check = Callable[[Any], "str | None"]


def _must(test: Callable[[Any], bool], what: str) -> Check:
    return lambda value: None if test(value) else what


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and is_unicode(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


_TEXT = _must(_is_text, "a string of valid Unicode")
_NAME = _must(lambda value: _is_text(value) and bool(value.strip()), "a string that is not blank")
_FLAG = _must(lambda value: type(value) is bool, "true or false")
_COUNT = _must(_is_count, f"an integer from 0 to {MOST:,}")
_IDS = _must(
    lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(_is_count, value)), "a list of token ids"
)
_OBJECT = _must(lambda value: isinstance(value, dict), "an object")
_POSITIVE = _must(lambda value: is_number(value) and value > 0, "a positive number")


def _one_of(choices: Sequence[str]) -> Check:
    return _must(lambda value: isinstance(value, str) and value in choices, f"one of {', '.join(choices)}")


def _classes(value: Any) -> str | None:
    try:
        classes = checked_classes(value)
    except TypeError as error:
        return f"the list of classes ({error})"
    return None if all(map(_is_text, map(str, classes))) else "a list of valid Unicode"


def _lora(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "an object"
    try:
        LoRAConfig.coerce(value)
    except (UsageError, TypeError, ValueError, OverflowError) as error:
        return f"a LoRA configuration ({error})"
    return None


def _metrics(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "an object"
    for split, figures in value.items():
        numbers = ("accuracy", "macro_f1", "log_loss")
        if not isinstance(figures, dict) or not _is_count(figures.get("texts")):
            return f"an object with a number of texts for each split ({shortened(split)} has none)"
        if not all(type(figures.get(name)) in (int, float) and _as_float(figures[name]) for name in numbers):
            return f"an object of figures for each split ({shortened(split)} lacks one of {', '.join(numbers)})"
    return None


def _int8(value: Any) -> str | None:
    names = [value.get(name) for name in ("layers", "left_out")] if isinstance(value, dict) else [None]
    if not all(isinstance(each, (list, tuple)) and all(map(_is_text, each)) for each in names):
        return "an object with lists of layers"
    if not (_is_count(value.get("texts")) and is_number(value.get("agreement")) and 0 <= value["agreement"] <= 1):
        return "an object with a number of texts and the share of equal labels"
    return None


def _measured(value: Any) -> str | None:
    right = isinstance(value, dict) and value.get("classifier") in WHOSE and _is_count(value.get("texts"))
    return None if right else "an object with a number of texts, and which classifier measured them"


def _as_float(value: float) -> bool:
    try:
        return isinstance(float(value), float)
    except OverflowError:
        return False


def _settings(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "an object"
    types_of = _setting_types()
    for name, setting in value.items():
        if name in types_of and type(setting) not in types_of[name]:
            return f"an object of settings ({name} is {shortened(setting)})"
        if name in types_of and setting is not None:
            try:
                check_argument(name, setting)
            except UsageError:
                return f"an object of settings ({name} is {shortened(setting)})"
    return None


@cache
def _setting_types() -> dict[str, tuple[type, ...]]:
    """Types that a setting's record may have, by name; only settings whose annotation limits them."""
    kinds = {name: _json_types(hint) for name, hint in get_type_hints(Settings).items()}
    return {name: (*kind, type(None)) for name, kind in kinds.items() if kind}


def _json_types(hint: Any) -> tuple[type, ...]:
    """Types of JSON for an annotation; empty if it allows any."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        parts = [_json_types(part) for part in arguments if part is not type(None)]
        return tuple({kind for part in parts for kind in part}) if all(parts) else ()
    if origin is Literal:
        return (str,)
    if hint is LoRAConfig or (origin or hint) is dict:
        return (dict,)
    if (origin or hint) is os.PathLike or hint is str:
        return (str,)
    if hint is float:
        return (int, float)
    return (hint,) if hint in (int, bool) else ()


def _is(check: Check | type) -> dict[str, Any]:
    return {"check": check}


@dataclass(frozen=True)
class _Record:
    """A JSON object with the fields of the dataclass."""

    @classmethod
    def read(cls, raw: Any, origin: str, path: str = "") -> Any:
        """Reads and checks the fields of an object.

        Parameters
        ----------
        raw : object
            Parsed JSON.
        origin : str
            The file, for messages.
        path : str
            Name of the object in the file, with a dot at its end.

        Raises
        ------
        ModelError
            If a field is missing or wrong; the message names it.
        """
        if not isinstance(raw, Mapping):
            raise ModelError(f"{origin}: {path.rstrip('.') or 'its content'} is {shortened(raw)}, not an object.")
        values = {}
        for declared in fields(cls):
            name = declared.name
            if name not in raw:
                if declared.default is MISSING and declared.default_factory is MISSING:
                    raise ModelError(f"{origin}: {path}{name} is missing.")
                continue
            check = declared.metadata["check"]
            if isinstance(check, type):
                values[name] = check.read(raw[name], origin, f"{path}{name}.")  # type: ignore[attr-defined]
            elif (wanted := check(raw[name])) is not None:
                raise ModelError(f"{origin}: {path}{name} is {shortened(raw[name])}, not {wanted}.")
            else:
                values[name] = raw[name]
        return cls(**values)


@dataclass(frozen=True)
class TokenizerSpec(_Record):
    """The tokenizer of a checkpoint.

    Attributes
    ----------
    kind : {"tiktoken", "tokenizers"}
    pad_token : str or None
    split_special_tokens : bool
        See :attr:`pyllmclf.data.tokenizers.Tokenizer.splits_special_tokens`; true in checkpoints of before.
    prompt : str
        String before each text; empty for none, and in checkpoints of before.
    between : list of int, or None
        Tokens between the two texts of a pair; ``None`` for a classifier of single texts.
    """

    kind: str = field(metadata=_is(_one_of(("tiktoken", "tokenizers"))))
    pad_token: str | None = field(metadata=_is(_or_none(_NAME)))
    split_special_tokens: bool = field(metadata=_is(_FLAG), default=True)
    prompt: str = field(metadata=_is(_TEXT), default="")
    between: list[int] | None = field(metadata=_is(_or_none(_IDS)), default=None)


@dataclass(frozen=True)
class BaseSpec(_Record):
    """Where the pretrained weights come from.

    Attributes
    ----------
    hub_id, revision : str or None
        Repository and commit.
    sha256 : str or None
        Hash of the frozen base of a LoRA classifier.
    """

    hub_id: str | None = field(metadata=_is(_or_none(_NAME)))
    revision: str | None = field(metadata=_is(_or_none(_NAME)))
    sha256: str | None = field(
        metadata=_is(
            _or_none(_must(lambda v: isinstance(v, str) and bool(re.fullmatch("[0-9a-f]{64}", v)), "a SHA-256"))
        )
    )


@dataclass(frozen=True)
class CheckpointSpec(_Record):
    """Content of ``pyllmclf.json``; the attributes are those of :class:`pyllmclf.classifier.state.ClassifierState`."""

    classes: list[Label] = field(metadata=_is(_classes))
    label_separator: str | None = field(metadata=_is(_or_none(_NAME)))
    pooling: str = field(metadata=_is(_one_of(words(Pooling))))
    causal: bool = field(metadata=_is(_FLAG))
    head_bias: bool = field(metadata=_is(_FLAG))
    max_length: int = field(metadata=_is(_must(lambda v: _is_count(v) and v >= 1, f"an integer from 1 to {MOST:,}")))
    pad_to: int = field(metadata=_is(_COUNT))
    long_texts: str = field(metadata=_is(_one_of(words(LongTexts))))
    tokenizer: TokenizerSpec = field(metadata=_is(TokenizerSpec))
    lora: dict[str, Any] | None = field(metadata=_is(_or_none(_lora)))
    temperature: float | None = field(metadata=_is(_or_none(_POSITIVE)))
    metrics: dict[str, dict[str, Any]] = field(metadata=_is(_metrics))
    base: BaseSpec = field(metadata=_is(BaseSpec))
    settings: dict[str, Any] = field(metadata=_is(_settings))
    format_version: int = field(metadata=_is(_must(lambda v: type(v) is int, "an integer")), default=FORMAT_VERSION)
    pyllmclf_version: str = field(metadata=_is(_TEXT), default="")
    model_type: str = field(metadata=_is(_TEXT), default="")
    pooler: bool = field(metadata=_is(_FLAG), default=True)
    pair_truncation: str = field(metadata=_is(_one_of(words(PairTruncation))), default="longest_first")
    int8: dict[str, Any] | None = field(metadata=_is(_or_none(_int8)), default=None)
    held_out: dict[str, Any] | None = field(metadata=_is(_or_none(_measured)), default=None)
    training_rows: dict[str, Any] | None = field(metadata=_is(_or_none(_measured)), default=None)
    decisions: dict[str, Any] | None = field(metadata=_is(_or_none(_OBJECT)), default=None)

    def to_json(self) -> dict[str, Any]:
        """The content of the file; first what identifies it."""
        content = asdict(self)
        first = ("format_version", "pyllmclf_version", "model_type")
        return {name: content[name] for name in (*first, *(name for name in content if name not in first))}


def _is_figure(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and _as_float(value))


def _figures(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_figure, value.values()))


_NUMBERS = _must(_figures, "an object of numbers")


@dataclass(frozen=True)
class TrainingSpec(_Record):
    """Content of ``training_state/state.json`` of a run; :meth:`pyllmclf.training.trainer.Trainer.state_dict`."""

    identity: dict[str, Any] = field(metadata=_is(_OBJECT))
    arithmetic: dict[str, Any] = field(metadata=_is(_OBJECT))
    step: int = field(metadata=_is(_COUNT))
    history: list[dict[str, Any]] = field(
        metadata=_is(_must(lambda v: isinstance(v, list) and all(map(_figures, v)), "a list of objects of numbers"))
    )
    finished: bool = field(metadata=_is(_FLAG))
    stopped: list[bool] = field(
        metadata=_is(_must(lambda v: isinstance(v, list) and [type(e) for e in v] == [bool, bool], "two booleans"))
    )
    loader: dict[str, Any] = field(metadata=_is(_OBJECT))
    epoch_sums: dict[str, Any] = field(metadata=_is(_NUMBERS))
    scaler: dict[str, Any] = field(metadata=_is(_NUMBERS))
    metrics: dict[str, dict[str, Any]] = field(metadata=_is(_metrics))
    best: dict[str, Any] | None = field(metadata=_is(_or_none(_NUMBERS)), default=None)
    calibration: dict[str, Any] | None = field(metadata=_is(_or_none(_NUMBERS)), default=None)


def read_spec(raw: Mapping[str, Any], file: Path) -> CheckpointSpec:
    """Checks the content of ``pyllmclf.json``.

    Raises
    ------
    ModelError
        If it is of another format version, or a field is missing or wrong.
    """
    version = raw.get("format_version")
    if version not in VERSIONS or type(version) is not int:
        raise ModelError(
            f"{file}: format version {shortened(version)} is none of {', '.join(map(str, VERSIONS))}; update pyllmclf."
        )
    spec: CheckpointSpec = CheckpointSpec.read(raw, str(file))
    if (spec.lora is not None) and spec.base.sha256 is None:
        raise ModelError(f"{file}: base.sha256 is missing, which lora needs: the base is checked by it.")
    return spec
