"""Names of classes where a source has numbers and names: ``datasets.ClassLabel``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import DataError
from .values import shorten


def class_names(feature: Any) -> list[str] | None:
    """Names of a ``ClassLabel``, or of a sequence of them; ``None`` for another feature.

    Parameters
    ----------
    feature : datasets feature, or the mapping that ``datasets`` writes for it
    """

    def part(of: Any, name: str) -> Any:
        return of.get(name) if isinstance(of, Mapping) else getattr(of, name, None)

    inner = part(feature, "feature")
    names = part(feature if inner is None else inner, "names")
    return list(map(str, names)) if isinstance(names, (list, tuple)) else None


def named_labels(labels: list[Any], names: list[str] | None, origin: str) -> list[Any]:
    """Names instead of numbers, also in lists of numbers; without names, and where there is no number, unchanged.

    Raises
    ------
    DataError
        If a number stands for no name.
    """
    if names is None:
        return labels
    return [_named(label, names, origin, row) for row, label in enumerate(labels)]


def _named(label: Any, names: list[str], origin: str, row: int) -> Any:
    if label is None:
        return label
    if isinstance(label, list):
        return [_named(one, names, origin, row) for one in label]
    if not isinstance(label, int) or not 0 <= label < len(names):
        unlabelled = " (-1 marks texts without a label)" if label == -1 else ""
        raise DataError(
            f"{origin}, row {row}: the label is {shorten(label)}, which stands for none of {len(names)} names"
            f"{unlabelled}."
        )
    return names[label]
