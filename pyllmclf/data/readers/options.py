"""Options of reading, declared and checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...settings import check_argument
from .columns import pick_columns, pick_weight_column


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which columns and labels are read, and how empty texts and invalid bytes are treated.

    Attributes
    ----------
    text_column, label_column : str, optional
        Column names; ``None`` looks for the usual ones (:mod:`.columns`).
    labelled : bool
        Whether labels are needed. If not, they are not read.
    label_separator : str, optional
        Texts may have several labels, or none: each label is a list, or a string with this between its labels.
    empty_texts : {"keep", "skip", "error"}
        Whether texts that are empty or white space stay, are left out and counted, or raise.
    encoding_errors : {"strict", "replace"}
        Whether bytes that are not UTF-8 raise, or become U+FFFD, with a warning that counts them.
    sample_weight : str or array, optional
        Column of the texts' weights, or the weights of all rows, those that ``empty_texts`` leaves out too.
    missing : {"error", "skip", "collect", "collect_blank"}
        Whether rows whose text or label is missing raise, or are left out and counted. The others, which are no values
        of the argument, put all rows that can't be used into :attr:`TextData.faults`; blank fields of a source of text
        are empty texts with ``"collect"`` and missing with ``"collect_blank"``, as with ``"error"`` and ``"skip"``.

    Raises
    ------
    UsageError
        For an unknown ``empty_texts``, ``encoding_errors`` or ``missing``.
    """

    text_column: str | None = None
    label_column: str | None = None
    labelled: bool = True
    label_separator: str | None = None
    empty_texts: str = "keep"
    encoding_errors: str = "strict"
    sample_weight: Any = None
    missing: str = "error"

    def __post_init__(self) -> None:
        check_reading(self.empty_texts, self.encoding_errors)
        if not self.collects:
            check_argument("missing", self.missing)

    @property
    def collects(self) -> bool:
        """Whether rows that can't be used are collected instead of raised."""
        return self.missing in ("collect", "collect_blank")

    @property
    def blank_is_missing(self) -> bool:
        """Whether blank fields of a source of text are missing texts, rather than empty ones."""
        return self.missing in ("skip", "collect_blank")

    def columns(self, names: Sequence[str], origin: str) -> tuple[str, str | None]:
        """Names of the text and the label column among ``names``; see :func:`.columns.pick_columns`."""
        return pick_columns(names, self.text_column, self.label_column, self.labelled, origin)

    def weight_column(self, names: Sequence[str], others: Sequence[str | None], origin: str) -> str | None:
        """Name of the column of weights, if one is chosen; see :func:`.columns.pick_weight_column`."""
        if not isinstance(self.sample_weight, str):
            return None
        return pick_weight_column(names, self.sample_weight, others, origin)


def check_reading(empty_texts: str, encoding_errors: str = "strict") -> None:
    """Raises :class:`UsageError` unless both values are known."""
    check_argument("empty_texts", empty_texts)
    check_argument("encoding_errors", encoding_errors)
