"""Which columns hold the texts and the labels."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import DataError
from ...suggestions import did_you_mean

TEXT_COLUMNS = ("text", "sentence", "message", "review", "content", "document")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")


def pick_columns(
    columns: Sequence[str], text_column: str | None, label_column: str | None, labelled: bool, origin: str
) -> tuple[str, str | None]:
    """Names of the text and the label column.

    Parameters
    ----------
    columns : sequence of str
    text_column, label_column : str or None
        The user's choice; ``None`` looks for a usual name.
    labelled : bool
        Whether a label column is needed.
    origin : str
        For messages.

    Returns
    -------
    (text, label) : tuple of str
        ``label`` is ``None`` unless ``labelled``.

    Raises
    ------
    DataError
        If a column is missing, appears twice, or can't be told from the names.
    """
    repeated = sorted({c for c in columns if list(columns).count(c) > 1})
    if repeated:
        raise DataError(f"{origin}: the column {repeated[0]!r} appears more than once; rename one of them.")
    if text_column is not None and text_column == label_column:
        raise DataError(f"{origin}: {text_column!r} can't be both the text and the label column.")
    text = _pick(columns, text_column, TEXT_COLUMNS, "text", origin, excluded=label_column)
    if not labelled:
        return text, None
    label = _pick(columns, label_column, LABEL_COLUMNS, "label", origin, excluded=text)
    return text, label


def pick_weight_column(columns: Sequence[str], chosen: str, others: Sequence[str | None], origin: str) -> str:
    """Name of the column ``chosen`` for the weights of the texts.

    Raises
    ------
    DataError
        If it is missing, or is one of the ``others``, the text and the label column.
    """
    weight = _pick(columns, chosen, (), "weight", origin, excluded=None)
    if weight in others:
        raise DataError(f"{origin}: {weight!r} can't be the column of the weights and of the texts or labels.")
    return weight


def _pick(
    columns: Sequence[str], chosen: str | None, usual: Sequence[str], role: str, origin: str, excluded: str | None
) -> str:
    if chosen is not None:
        if chosen not in columns:
            raise DataError(
                f"{origin}: there is no column {chosen!r}; the columns are {_listed(columns)}"
                f"{did_you_mean(chosen, columns)}."
            )
        return chosen
    candidates = [c for c in columns if c.strip().lower() in usual and c != excluded]
    if len(candidates) == 1:
        return candidates[0]
    problem = f"several columns could be the {role}" if candidates else f"no column is named like a {role}"
    raise DataError(
        f"{origin}: {problem} among {_listed(columns)}; say which one with {role}_column (--{role}-column)."
    )


def _listed(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(repr(n) for n in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
