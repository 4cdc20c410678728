"""Options of reading, declared and checked once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...choices import DELIMITERS
from ...errors import DataError
from ...settings import check_argument
from .column_choice import Wanted, pick_columns
from .columns import Column, Columns
from .notes import Notes
from .usual_names import usual_label


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Which columns and labels are read, and how files are decoded and split into fields.

    Attributes
    ----------
    text_column : str, int or sequence of them, optional
        Columns by name or number; several are joined. ``None`` looks for the usual ones (:mod:`.usual_names`).
    label_column : str or int, optional
        As ``text_column``, but one.
    text_pair_column : str or int, optional
        Column of the second texts, where texts are pairs.
    pairs : bool, optional
        Whether texts are pairs; ``None`` leaves that to the data: see :class:`.column_choice.Wanted`.
    labelled : bool
        Whether labels are needed. If not, they are not read.
    label_separator : str, optional
        Texts may have several labels, or none: each label is a list, or a string with this between its labels.
    empty_texts : {"keep", "skip", "error"}
        Whether texts that are empty or white space stay, are left out and counted, or raise.
    encoding_errors : {"strict", "replace"}
        Whether bytes that the encoding does not have raise, or become U+FFFD, with a warning that counts them.
    encoding : str
        Name of a codec of Python; ``"auto"`` finds it (:func:`.encoding.open_text`).
    delimiter : str, optional
        Character between the fields of delimited files, or ``"comma"``, ``"semicolon"``, ``"tab"`` or ``"pipe"``;
        ``None`` finds it.
    header : bool
        Whether the first row of a delimited file names the columns; if not, their names are their numbers from 0.
    sample_weight : str or array, optional
        Column of the texts' weights, by name or number, or the weights of all rows, also of those that
        ``empty_texts`` leaves out.
    missing : {"error", "skip", "collect", "collect_blank"}
        Whether rows whose text or label is missing raise, or are left out and counted. The others, which are no values
        of the argument, put all rows that can't be used into :attr:`TextData.faults`; blank fields of a source of text
        are empty texts with ``"collect"`` and missing with ``"collect_blank"``, as with ``"error"`` and ``"skip"``.
    on_pick : callable, optional
        Gets the columns of each source that :meth:`pick` has found.

    Raises
    ------
    UsageError
        For an unknown or invalid value.
    """

    text_column: Column | Sequence[Column] | None = None
    label_column: Column | None = None
    text_pair_column: Column | None = None
    pairs: bool | None = None
    labelled: bool = True
    label_separator: str | None = None
    empty_texts: str = "keep"
    encoding_errors: str = "strict"
    encoding: str = "auto"
    delimiter: str | None = None
    header: bool = True
    sample_weight: Any = None
    missing: str = "error"
    on_pick: Callable[[Columns], object] | None = None

    def __post_init__(self) -> None:
        for name in (
            "text_column",
            "label_column",
            "text_pair_column",
            "empty_texts",
            "encoding_errors",
            "encoding",
            "delimiter",
            "header",
        ):
            check_argument(name, getattr(self, name))
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

    def pick(
        self,
        names: Sequence[str],
        origin: str,
        rows: Callable[[], Iterable[Sequence[Any]]] | None = None,
        notes: Notes | None = None,
        *,
        header: bool | None = None,
    ) -> Columns:
        """Places of the texts, of the labels and of the weights; see :func:`.column_choice.pick_columns`."""
        wanted = Wanted(
            text=self.text_column,
            label=self.label_column,
            labelled=self.labelled,
            pair=self.text_pair_column,
            pairs=self.pairs,
            weight=self.weight_column,
        )
        columns = pick_columns(
            names,
            wanted,
            origin,
            header=self.header if header is None else header,
            rows=rows,
            notes=notes,
        )
        if self.on_pick is not None:
            self.on_pick(columns)
        return columns

    def fits(self, names: Sequence[str]) -> bool:
        """Whether the names alone tell the columns of the texts and of the labels."""
        options = replace(self, on_pick=None)
        if self.weight_column not in names:
            options = replace(options, sample_weight=None)
        try:
            options.pick(names, "", header=True)
        except DataError:
            return False
        return True

    def label_of(self, names: Sequence[str]) -> int | None:
        """Place of the label column, where its name or number tells it."""
        if self.label_column is None:
            return usual_label(names, self.weight_column) if self.header else None
        chosen = str(self.label_column)
        if self.header and chosen in names:
            return list(names).index(chosen)
        return int(chosen) if chosen.isdecimal() and int(chosen) < len(names) else None

    @property
    def weight_column(self) -> str | None:
        """Name of the column of the weights, if they are one."""
        return self.sample_weight if isinstance(self.sample_weight, str) else None

    @property
    def chosen_names(self) -> tuple[str, ...]:
        """Names of columns that the user has chosen."""
        texts = self.text_column
        several = (
            texts.split(",")
            if isinstance(texts, str)
            else [texts]
            if texts is None or isinstance(texts, int)
            else texts
        )
        others = self.text_pair_column, self.label_column, self.weight_column
        return tuple(str(name).strip() for name in (*several, *others) if name is not None)

    @property
    def chooses_columns(self) -> bool:
        """Whether the user has chosen a column of texts or of labels."""
        return any(each is not None for each in (self.text_column, self.text_pair_column, self.label_column))

    @property
    def delimiter_character(self) -> str | None:
        """The character that the user has chosen between fields."""
        return None if self.delimiter is None else DELIMITERS.get(self.delimiter, self.delimiter)


def check_reading(empty_texts: str, encoding_errors: str = "strict", encoding: str = "auto") -> None:
    """Raises :class:`UsageError` unless all values are known."""
    check_argument("empty_texts", empty_texts)
    check_argument("encoding_errors", encoding_errors)
    check_argument("encoding", encoding)
