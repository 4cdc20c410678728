"""Explanations in a terminal: coloured words, and the strongest ones with their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..printable import printable
from ..text_pair import parts_of
from .html import SHADES, shade

if TYPE_CHECKING:
    from rich.text import Text as RichText

    from .record import Record, Weight

# Backgrounds of the shades, from the faintest; black letters are legible on all of them.
FOR = ("#e2f3e7", "#c3e6ce", "#9fd8b1", "#7ac993", "#55ba76")
AGAINST = ("#fbe4e2", "#f6c8c4", "#f0aaa4", "#ea8b83", "#e46c62")


def heading(explanation: Record) -> str:
    """Class, probability and logits in a line."""
    predicted = "" if explanation.predicted == explanation.target else f", predicted: {explanation.predicted}"
    return printable(
        f"{explanation.target} (probability {explanation.probability:.3f}{predicted}; logit "
        f"{explanation.baseline_logit:+.2f} without words, {explanation.logit:+.2f} with them)"
    )


def weights(explanation: Record, n: int = 8) -> str:
    """The strongest words in a line, each with its weight."""
    words = ", ".join(f"{printable(word.text)} {word.weight:+.2f}" for word in explanation.strongest(n))
    cut = "; not all of the text was read" if explanation.truncated else ""
    return f"{words or 'no words'}; error {explanation.completeness_error:.1g}{cut}"


def plain(explanation: Record) -> str:
    """The explanation without colours: class, text, and the strongest words."""
    text = printable(" | ".join(parts_of(explanation.text)))
    return "\n".join([heading(explanation), text, weights(explanation)])


def rendered(explanation: Record) -> RichText:
    """The explanation for rich: the text with coloured words between the lines of :func:`plain`."""
    from rich.text import Text

    result = Text().append(heading(explanation) + "\n", style="bold")
    largest = max((abs(word.weight) for word in explanation.words if word.weight is not None), default=0.0)
    for part, text in enumerate(parts_of(explanation.text)):
        result.append(" | " if part else "")
        end = 0
        for word in (each for each in explanation.words if each.part == part):
            result.append(printable(text[end : word.start]))
            result.append(printable(word.text), style=_style(word, largest))
            end = word.end
        result.append(printable(text[end:]))
    return result.append("\n" + weights(explanation) + "\n", style="dim")


def _style(word: Weight, largest: float) -> str:
    if word.weight is None:
        return "dim italic"
    level = shade(word.weight, largest)
    if level == 0:
        return ""
    color = (FOR if level > 0 else AGAINST)[min(abs(level), SHADES) - 1]
    return f"black on {color}"
