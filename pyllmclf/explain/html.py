"""Explanations as HTML: highlighted words, and pages that need no script and no other file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from markupsafe import Markup, escape

from ..printable import printable
from ..text_pair import parts_of
from .record import Record, Weight

# Shades of each sign; a word with less than half a shade has none.
SHADES = 5

HIGHLIGHT_CSS = Markup(
    ".why mark{color:inherit;background:none;border-radius:.2em;padding:0 .1em}"
    + "".join(
        f".why .for-{shade}{{background:rgb(34 139 80/{shade * 13}%)}}"
        f".why .against-{shade}{{background:rgb(205 60 50/{shade * 13}%);"
        "text-decoration:underline dotted;text-underline-offset:.2em}"
        for shade in range(1, SHADES + 1)
    )
    + ".why .unread{opacity:.6;font-style:italic}"
    "@media print{.why mark{print-color-adjust:exact;-webkit-print-color-adjust:exact}}"
)


def shade(weight: float, largest: float) -> int:
    """Shade of a weight, from −SHADES to SHADES, where the largest magnitude has the last one."""
    return round(SHADES * weight / largest) if largest > 0 else 0


def highlight(explanation: Record) -> Markup:
    """A text with its words marked by their weights, as inline HTML.

    Words that add to the logit are ``<mark class="for-1">`` to ``for-5``, words that take from it ``against-1`` to
    ``against-5``, with the weight as title; what the model didn't read is ``<span class="unread">``. The colours are
    :data:`HIGHLIGHT_CSS`, for a ``<style>`` element of the page; there are no style attributes and no scripts. The
    second text of a pair is another ``<span class="why">``.

    Parameters
    ----------
    explanation : Explanation

    Returns
    -------
    markupsafe.Markup
        Everything of the text is escaped; control characters are visible escapes.
    """
    largest = max((abs(word.weight) for word in explanation.words if word.weight is not None), default=0.0)
    parts = []
    for part, text in enumerate(parts_of(explanation.text)):
        words = [word for word in explanation.words if word.part == part]
        parts.append(Markup('<span class="why">{}</span>').format(Markup("").join(_pieces(text, words, largest))))
    return Markup(printable(str(Markup(" ").join(parts)), keep="\n\r\t"))


def _pieces(text: str, words: Iterable[Weight], largest: float) -> Iterable[Markup]:
    end = 0
    unread = Markup("")
    for word in words:
        between, end = escape(text[end : word.start]), word.end
        if word.weight is None:  # words that follow each other are one element
            unread += (between if unread else Markup("")) + escape(word.text)
            if unread == escape(word.text):
                yield between
            continue
        if unread:
            yield Markup('<span class="unread" title="not read">{}</span>').format(unread)
            unread = Markup("")
        yield between
        level = shade(word.weight, largest)
        if level == 0:
            yield escape(word.text)
        else:
            name = f"{'for' if level > 0 else 'against'}-{abs(level)}"
            yield Markup('<mark class="{}" title="{}">{}</mark>').format(name, f"{word.weight:+.3f}", word.text)
    if unread:
        yield Markup('<span class="unread" title="not read">{}</span>').format(unread)
    yield escape(text[end:])


def page(index: Iterable[Any], explanations: Iterable[Record]) -> str:
    """A whole page; see :meth:`.explanation.Explanations.to_html`."""
    return _rendered("page.html", index, explanations)


def fragment(index: Iterable[Any], explanations: Iterable[Record]) -> str:
    """The same for a notebook's cell."""
    return _rendered("fragment.html", index, explanations)


def _rendered(template: str, index: Iterable[Any], explanations: Iterable[Record]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # pages alone need it

    environment = Environment(
        loader=PackageLoader("pyllmclf.explain", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    items = [(name, each, highlight(each)) for name, each in zip(index, explanations, strict=True)]
    return environment.get_template(template).render(items=items, css=HIGHLIGHT_CSS)
