"""The published tables, from ``published.json``, and the choice of their rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any

from ..choices import Weights
from ..errors import UsageError

BAG_OF_WORDS = "bow"
# The model that --model replaces.
BASE_MODEL = "gpt2"


@dataclass(frozen=True)
class Published:
    """Published figures of a row: accuracies in percent, minutes on an A100; ``None`` for missing figures."""

    train: float | None
    validation: float | None
    test: float | None
    minutes: float | None


@dataclass(frozen=True)
class TableRow:
    """An experiment of a table.

    Attributes
    ----------
    name : str
        Number in the published table, or ``"bow"``.
    model, weights : str
        As for :func:`pyllmclf.finetune`.
    settings : dict
        Arguments of :func:`pyllmclf.finetune`, with those that all rows of the table share.
    published : Published
    differs : tuple of str
        Differences from the published run.
    """

    name: str
    model: str
    weights: Weights
    settings: dict[str, Any] = field(hash=False)
    published: Published
    differs: tuple[str, ...] = ()

    @property
    def is_bag_of_words(self) -> bool:
        """Whether the row is the baseline without a language model."""
        return self.name == BAG_OF_WORDS

    def describe(self) -> str:
        """Describes how the row differs from others, for a table."""
        if self.is_bag_of_words:
            return "bag of words, logistic regression"
        settings = self.settings
        trained = settings.get("trainable", "last_block")
        if "lora" in settings:
            trained = f"LoRA {settings['lora']['rank']}"
        token = {"last_position": "last", "last": "last real"}.get(settings.get("pooling", ""), settings.get("pooling"))
        words = [trained, f"token: {token or 'default'}"]
        padding = settings.get("padding", "none")
        words.append({"none": "no padding", "train_longest": "padded"}.get(padding, f"padded: {padding}"))
        if settings.get("causal") is False:
            words.append("no causal mask")
        if (accumulated := settings.get("gradient_accumulation_steps", 1)) > 1:
            words.append(f"batch {settings['batch_size']} x {accumulated}")
        elif settings.get("batch_size", 8) != 8:
            words.append(f"batch {settings['batch_size']}")
        return ", ".join(words)


@cache
def _published() -> dict[str, Any]:
    return json.loads((resources.files(__package__) / "published.json").read_text(encoding="utf-8"))


def tables() -> list[str]:
    """Lists the names of the tables."""
    return list(_published()["tables"])


def default_data(table: str) -> str:
    """The named data set of a table."""
    return _published()["tables"][table]["data"]


def published_rows(table: str) -> list[TableRow]:
    """Lists all rows of a table, which must exist."""
    content = _published()["tables"][table]
    rows = []
    for row in content["rows"]:
        bag = row["row"] == BAG_OF_WORDS
        settings = {} if bag else content["settings"] | row["settings"]
        differs = [row.get("differs", ""), "" if bag else content.get("differs", "")]
        rows.append(
            TableRow(
                name=row["row"],
                model=row["model"],
                weights=row["weights"],
                settings=settings,
                published=Published(**(row["published"] or dict.fromkeys(("train", "validation", "test", "minutes")))),
                differs=tuple(filter(None, differs)),
            )
        )
    return rows


def without_published(row: TableRow) -> TableRow:
    """A row without published figures and differences from them, for data that they are not of."""
    return replace(row, published=Published(None, None, None, None), differs=())


def choose_rows(table: str, wanted: str | None) -> list[TableRow]:
    """Chooses rows by a list of names and ranges of numbers; returns them in the table's order.

    Parameters
    ----------
    table : str
    wanted : str or None
        For example ``"1-5,11,bow"``; ``None`` for all rows.

    Raises
    ------
    UsageError
        If the table has no such row.
    """
    rows = published_rows(table)
    if wanted is None:
        return rows
    names = [row.name for row in rows]
    chosen: set[str] = set()
    for item in wanted.split(","):
        first, dash, last = item.strip().partition("-")
        if dash and first.isdecimal() and last.isdecimal():
            numbers = [str(number) for number in range(int(first), int(last) + 1)]
        else:
            numbers = [item.strip()]
        unknown = [name for name in numbers if name not in names]
        if unknown or not numbers:
            raise UsageError(f"rows: the table {table} has no row {item.strip()!r}; it has {', '.join(names)}.")
        chosen.update(numbers)
    return [row for row in rows if row.name in chosen]
