"""Cells of CSV files that a spreadsheet doesn't take for formulas."""

from __future__ import annotations

import re

# Signs that begin a formula, also those of East Asian keyboards, which spreadsheets read as the same.
_SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20"
# Characters that begin a cell with a formula behind them, in some spreadsheet's reading.
_FIRST = re.compile(f"[{_SIGNS};\\t\\r\\n]")
# Separators after which a new cell begins where a spreadsheet splits at them, and what may stand before the sign.
_INNER = re.compile(f"([;\\t\\r\\n][\"' ]*)(?=[{_SIGNS}])")


def without_formulas(cell: str) -> str:
    """Puts ``'`` before a cell that begins as a formula, and before signs behind ``;``, tab and new line in it."""
    escaped = _INNER.sub(r"\1'", cell)
    return f"'{escaped}" if _FIRST.match(cell) else escaped
