"""What the writers of predictions have in common: columns of the input, and names of those that are added."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..text_pair import named_parts

if TYPE_CHECKING:
    import numpy as np

    from ..classifier import Classifier
    from ..data.readers.row_batches import Rows, RowStream


@dataclass(frozen=True)
class Shape:
    """What the output contains.

    Attributes
    ----------
    format : str
        One of :data:`FORMATS`, or ``"labels"``: a line with the label of each text.
    top_k : int or None
        Only the most probable classes, best first.
    proba : bool
        Probabilities of all classes, which JSON always has without ``top_k``.
    keep_columns : bool
        Whether the columns of the input come first.
    escape_formulas : bool
        Whether ' is put before cells that a spreadsheet takes for formulas.
    """

    format: str
    top_k: int | None = None
    proba: bool = False
    keep_columns: bool = True
    escape_formulas: bool = False


class Writer(ABC):
    """Writes predictions; subclasses have a format each.

    Parameters
    ----------
    file : file or Path
    shape : Shape
    classifier : Classifier
    stream : RowStream
        Source of the rows.
    """

    def __init__(self, file: Any, shape: Shape, classifier: Classifier, stream: RowStream) -> None:
        self.file, self.shape, self.classifier, self.stream = file, shape, classifier, stream
        self.started = False
        self._reasons: list[str | None] = []
        self._sets: list[list[Any]] = []

    def write(self, rows: Rows, probabilities: np.ndarray, distances: np.ndarray | None = None) -> None:
        """Writes a batch of rows with probabilities [rows, classes], and distances [rows] where rules read them."""
        if not self.started:
            self.begin()
        labels, self._reasons = self.classifier.answers(probabilities, distances)
        if self.classifier.decisions.conformal is not None:
            self._sets = self.classifier.label_sets(probabilities)
        self.write_batch(rows, labels, probabilities)
        if hasattr(self.file, "flush"):
            self.file.flush()

    def begin(self) -> None:
        """Writes what comes before the first row."""
        self.started = True

    def end(self) -> None:
        """Writes what comes after the last row."""
        if not self.started:
            self.begin()

    @abstractmethod
    def write_batch(self, rows: Rows, labels: list[Any], probabilities: np.ndarray) -> None:
        """Writes a batch with its labels."""

    # --- for subclasses

    def input_columns(self) -> list[str]:
        """Names of the input's columns that are kept, or of the text, or of both texts, alone."""
        if self.stream.columns is None or not self.shape.keep_columns:
            return ["text", "text_pair"] if self.classifier.state.has_pairs else ["text"]
        return self.stream.columns

    def input_values(self, rows: Rows, row: int) -> dict[str, Any]:
        """Values of the input's columns in a row."""
        if rows.records is None or not self.shape.keep_columns:
            return dict(named_parts(rows.texts[row]))
        return rows.records[row]

    def by_rules(self) -> dict[str, list[Any]]:
        """What the classifier's rules add to each row of the batch, by name."""
        decisions = self.classifier.decisions
        found: dict[str, list[Any]] = {"abstained": self._reasons} if decisions.abstains else {}
        return found | ({"labels": self._sets} if decisions.conformal is not None else {})

    def added(self, labels: list[Any], probabilities: np.ndarray) -> dict[str, Any]:
        """Columns that a table gets, by names that the input has not."""
        name = self.classifier.label_name
        columns: dict[str, Any] = {name: labels} | {
            key: values if labels else [] for key, values in self.by_rules().items()
        }
        if self.shape.top_k is not None or self.shape.proba:
            columns |= self.classifier.columns(probabilities, self.shape.top_k)
        elif name == "label":
            columns["probability"] = self.classifier.decisions.confidence(probabilities)
        taken = set(self.input_columns())
        return {free_name(name, taken): values for name, values in columns.items()}


def free_name(name: str, taken: set[str]) -> str:
    """A name for a new column that is not taken, and from now on is."""
    chosen = name
    while chosen in taken:
        chosen = f"predicted_{chosen}"
    taken.add(chosen)
    return chosen


def original_name(name: str) -> str:
    """The name of which :func:`free_name` made this one."""
    while name.startswith("predicted_"):
        name = name.removeprefix("predicted_")
    return name


def check_free(values: dict[str, Any], names: Iterable[str], rows: Rows, row: int) -> None:
    """Raises :class:`DataError` if the object of a row has a name of the predictions."""
    for name in names:
        if name in values:
            line = "" if rows.lines is None else f"line {rows.lines[row]}: "
            raise DataError(
                f"{line}the object has {name!r}, the name of the predictions, which the first object has not; "
                "rename it, or say --no-keep-columns."
            )


def is_unicode(value: Any) -> bool:
    """Whether no string of a value, at any depth, holds a lone surrogate, which JSON's escapes can make."""
    from ..data.json_text import is_unicode as is_utf8

    return is_utf8(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def no_unicode(line: int | None, row: int) -> DataError:
    """The error of a row, by its line where it has one, that is not :func:`is_unicode`."""
    where = f"row {row}" if line is None else f"line {line}"
    return DataError(
        f"{where}: a column holds a lone surrogate, which is not valid Unicode, and only JSON has an escape for it; "
        "say --format jsonl, or --no-keep-columns."
    )


def no_rows(classes: int) -> np.ndarray:
    """Probabilities of no texts, shape [0, classes]."""
    import numpy as np

    return np.zeros((0, classes))


def plain_list(values: Any) -> list[Any]:
    """Values of a list or an array as Python's."""
    return values.tolist() if hasattr(values, "tolist") else list(values)
