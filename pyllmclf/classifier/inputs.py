"""Texts to classify in the forms that callers have, and results in the same forms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.labels import class_finder
from ..data.readers import Label, read_object
from ..data.sources import read_data
from ..errors import UsageError
from ..text_pair import Text, TextPair


@dataclass(frozen=True)
class TextInput:
    """Texts, and the form in which the caller has them.

    Attributes
    ----------
    texts : list of str or of TextPair
    single : bool
        Whether they are one text, whose result is that of one text rather than a sequence.
    index : pandas.Index or None
        Of a Series or a DataFrame, which its result keeps.
    """

    texts: list[Text]
    single: bool = False
    index: Any = None

    @classmethod
    def of(cls, texts: Any, *, pairs: bool = False) -> TextInput:
        """Reads a string, a sequence or an iterator of strings, a Series, a DataFrame or a ``datasets.Dataset``.

        Parameters
        ----------
        texts
        pairs : bool
            Whether texts are pairs: a tuple ``(text, pair)``, several of them, or two columns.

        Raises
        ------
        UsageError
            If ``texts`` is none of these.
        DataError
            If a text is missing or not a string, or is no pair where pairs are wanted, or the other way round.
        """
        if isinstance(texts, np.ndarray) and texts.ndim == 0:
            texts = texts.item()
        if isinstance(texts, bytes):
            raise UsageError("a text must be a string, not bytes; decode it first.")
        one_pair = isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)
        if isinstance(texts, str) or (one_pair and (pairs or isinstance(texts, TextPair))):
            return cls(_read([texts], pairs), single=True)
        if pairs and isinstance(texts, tuple) and all(map(_is_two, texts)):
            texts = list(texts)  # the readers take a tuple for columns, such as (texts, labels)
        index = texts.index if hasattr(texts, "iloc") else None
        has_columns = hasattr(texts, "columns") or hasattr(texts, "column_names")
        if not isinstance(texts, (dict, Sequence)) and not has_columns and hasattr(texts, "__iter__"):
            texts = list(texts)
        empty = not isinstance(texts, dict) and hasattr(texts, "__len__") and len(texts) == 0
        return cls([] if empty else _read(texts, pairs), index=index)

    def frame(self, columns: dict[Any, Any]) -> Any:
        """A DataFrame with a row for each text, and the index of the caller's Series or DataFrame."""
        import pandas as pd

        index = pd.RangeIndex(len(self.texts)) if self.index is None else self.index
        # pandas would make NaN of None, and floats of the integers beside it.
        kept = {
            name: pd.array(values, dtype=object) if isinstance(values, list) and None in values else values
            for name, values in columns.items()
        }
        return pd.DataFrame(kept, index=index)

    def series(self, values: list[Any], name: str) -> Any:
        """A Series with a value for each text, and the index of the caller's Series or DataFrame."""
        import pandas as pd

        as_they_are = not values or isinstance(values[0], (list, tuple)) or None in values
        return pd.Series(values, index=self.index, name=name, dtype=object if as_they_are else None)

    def scores(self, scores: np.ndarray, classes: Sequence[Label], as_frame: bool | None) -> Any:
        """Scores [texts, classes] in the form of :attr:`texts`: a row of one text, an array, or a DataFrame.

        Parameters
        ----------
        scores : ndarray
        classes : sequence of str or int
            Columns of a DataFrame.
        as_frame : bool or None
            Whether the result is a DataFrame; ``None`` means as the texts are.
        """
        check_as_frame(as_frame)
        if self.index is not None if as_frame is None else as_frame:
            return self.frame(dict(zip(classes, scores.T, strict=True)))
        return scores[0] if self.single else scores


def check_as_frame(as_frame: Any) -> None:
    """Raises :class:`UsageError` unless ``as_frame`` is a boolean or ``None``."""
    if not isinstance(as_frame, (bool, type(None))):
        raise UsageError(f"as_frame={as_frame!r} must be True, False or None.")


def check_top_k(top_k: Any) -> None:
    """Raises :class:`UsageError` unless ``top_k`` is a positive integer or ``None``."""
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
        raise UsageError(f"top_k={top_k!r} must be a positive integer.")


def class_indices(target: Any, inputs: TextInput, names: Sequence[str]) -> np.ndarray:
    """Class index of each text, int64, shape [texts], by one label for all or a label for each.

    Parameters
    ----------
    target : label, or sequence of labels
    inputs : TextInput
    names : sequence of str
        Class names, in order.

    Raises
    ------
    UsageError
        If a label is no class, or there is not one for each text.
    """
    if isinstance(target, np.ndarray) and target.ndim == 0:
        target = target.item()
    several = not isinstance(target, (str, bytes)) and hasattr(target, "__iter__")
    labels = list(target) if several else [target] * len(inputs.texts)
    if several and (inputs.single or len(labels) != len(inputs.texts)):
        wanted = "one label" if inputs.single else f"a label for each of {len(inputs.texts)} texts, or one for all"
        raise UsageError(f"target has {len(labels)} labels; give {wanted}.")
    find, one = class_finder(names), [] if several else [target]
    # By their spelling: lists of labels have no hash, and True is the key of 1.
    found = {name: (label, find(label)) for name, label in {str(each): each for each in [*labels, *one]}.items()}
    for label, index in found.values():
        if index is None:
            known = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
            raise UsageError(f"target={label!r} is no class; the classes are {known}.")
    return np.array([found[str(label)][1] for label in labels], dtype=np.int64)


def most_probable(probabilities: np.ndarray, classes: Sequence[Label], top_k: int) -> list[list[tuple[Label, float]]]:
    """The ``top_k`` most probable classes of each row of ``probabilities`` [texts, classes], best first.

    Returns
    -------
    list of list of (label, probability)
        All classes where there are fewer; of equal ones, the first comes first.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
    return [[(classes[i], float(row[i])) for i in best] for best, row in zip(order, probabilities, strict=True)]


def _is_two(value: Any) -> bool:
    """Whether a value is a pair of texts, of which the second may be missing."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str)


def _read(texts: Any, pairs: bool) -> list[Text]:
    return read_object(texts, labelled=False, pairs=pairs).texts


def calibration_texts(calibration: Any, *, pairs: bool) -> list[Text]:
    """Texts, or pairs of texts, of a file, a data set, or any object that holds some."""
    if isinstance(calibration, (str, os.PathLike)):
        return list(read_data(calibration, labelled=False, default_split="validation", pairs=pairs).texts)
    return list(TextInput.of(calibration, pairs=pairs).texts)
