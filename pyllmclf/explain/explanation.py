"""Explanations: what each word of a text adds to the logit of a class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from ..data.atomic_folder import new_file
from ..data.readers import Label
from ..errors import UsageError
from ..paths import user_path
from ..text_pair import parts_of
from .record import Record
from .record import Weight as Weight
from .top_words import top_words

if TYPE_CHECKING:
    import pandas as pd


class Explanation(Record):
    """Why a text has a logit: the weight of each of its words.

    Attributes
    ----------
    text : str or TextPair
    target : label
        Class whose logit the weights are about.
    predicted : label
        Most probable class.
    probability : float
        Of the target.
    logit, baseline_logit : float
        Of the target: of the text, and with all its tokens replaced by the baseline. Of a text in windows the means.
    words, tokens : tuple of Weight
        In the order of the text; occlusion gives no weights of tokens.
    method, baseline : str
    steps : int or None
        Points of integration, of integrated gradients.
    """

    def to_frame(self, level: str = "word") -> pd.DataFrame:
        """As :meth:`Explanations.to_frame`, without ``text_index``."""
        return Explanations([self]).to_frame(level).drop(columns="text_index")

    def to_html(self) -> str:
        """A page that needs nothing else; see :meth:`Explanations.to_html`."""
        return Explanations([self]).to_html()

    def _repr_html_(self) -> str:
        return Explanations([self])._repr_html_()

    def __rich__(self) -> Any:
        from .terminal import rendered

        return rendered(self)

    def __str__(self) -> str:
        from .terminal import plain

        return plain(self)


class Explanations(Sequence[Explanation]):
    """Explanations of several texts.

    Parameters
    ----------
    items : sequence of Explanation
    index : sequence, optional
        Name of each text in tables: the index of the Series or DataFrame that the texts were in; by default 0, 1, ...
    """

    def __init__(self, items: Sequence[Explanation], index: Any = None) -> None:
        self._items = list(items)
        self.text_index = range(len(self._items)) if index is None else index

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, item: int) -> Explanation: ...
    @overload
    def __getitem__(self, item: slice) -> Explanations: ...

    def __getitem__(self, item: int | slice) -> Explanation | Explanations:
        if isinstance(item, slice):
            return Explanations(self._items[item], self.text_index[item])
        return self._items[item]

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Explanations of {len(self)} texts"

    @property
    def completeness_errors(self) -> np.ndarray:
        """:attr:`Explanation.completeness_error` of each text, float64, shape [texts]."""
        return np.array([each.completeness_error for each in self], dtype=np.float64)

    def to_frame(self, level: str = "word") -> pd.DataFrame:
        """A row for each word.

        Parameters
        ----------
        level : {"word", "token"}
            Occlusion has no weights of tokens.

        Returns
        -------
        DataFrame
            Columns ``text_index``, ``target``, ``word`` or ``token``, ``start``, ``end``, ``weight`` (missing where the
            model didn't read the word), and of pairs ``part`` (0 or 1).

        Raises
        ------
        UsageError
            If the level is unknown, or the method has no weights of tokens.
        """
        import pandas as pd

        if level not in ("word", "token"):
            raise UsageError(f"level={level!r} is unknown; it is 'word' or 'token'.")
        if level == "token" and any(each.words and not each.tokens for each in self):
            raise UsageError("occlusion has weights of words alone; choose level='word' or another method.")
        rows = [
            (name, each.target, weight.text, weight.start, weight.end, weight.weight, weight.part)
            for name, each in zip(self.text_index, self, strict=True)
            for weight in (each.words if level == "word" else each.tokens)
        ]
        names = ["text_index", "target", level, "start", "end", "weight", "part"]
        frame = pd.DataFrame(rows, columns=names).astype({"weight": "float64"})
        pairs = any(len(parts_of(each.text)) > 1 for each in self)
        return frame if pairs else frame.drop(columns="part")

    def to_dict(self) -> list[dict[str, Any]]:
        """:meth:`Explanation.to_dict` of each text."""
        return [each.to_dict() for each in self]

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Writes :meth:`to_dict`, a line for each text, to a file that is complete or as before.

        Raises
        ------
        ResourceError
            If the file can't be written.
        """
        with new_file(Path(user_path(path))) as file:
            file.writelines(json.dumps(each, ensure_ascii=False, default=str) + "\n" for each in self.to_dict())

    def top_words(
        self, label: Label | None = None, n: int = 10, *, by: str = "sum", min_count: int = 1
    ) -> pd.DataFrame:
        """The words that weigh most for a class.

        Parameters
        ----------
        label : str, int or bool, optional
            The texts that were explained for this class count; it may be left out where all were explained for one.
        n : int
            Number of words.
        by : {"sum", "mean"}
            Of the weights of a word over all its occurrences. The mean favours rare words; ``min_count`` leaves them
            out.
        min_count : int
            Least number of occurrences.

        Returns
        -------
        DataFrame
            Columns ``word`` (in lower case), ``count``, ``sum`` and ``mean``, the largest first.

        Raises
        ------
        UsageError
            If no text was explained for the class, or an argument is wrong.
        """
        return top_words(self, label, n, by=by, min_count=min_count)

    def to_html(self) -> str:
        """A page with the words of each text highlighted, and their weights in tables.

        It needs no other file and no script, and follows the reader's choice of dark or light.
        """
        from .html import page

        return page(self.text_index, self)

    def _repr_html_(self) -> str:
        from .html import fragment

        return fragment(self.text_index, self)

    def __rich__(self) -> Any:
        from rich.console import Group

        from .terminal import rendered

        return Group(*(rendered(each) for each in self))
