"""A self-contained page: its style and its script carry a nonce, and its policy forbids everything else."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from ..printable import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

POLICY = (
    "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)
SCRIPTS = ("start.js", "tables.js", "errors.js", "curves.js", "coverage.js", "matrix.js")
"""The parts of the one inline script, each of which leaves pages alone that lack its elements."""


def render_page(
    package: str, template: str, title: str, data: Mapping[str, Any], *, style: str = "", **values: Any
) -> str:
    """Renders a template of a package inside the frame that all pages share.

    Everything is escaped, and control characters of names and texts become visible escapes. The same values give the
    same bytes: the nonce is a hash of the page's content, which a text inside of it can't contain.

    Parameters
    ----------
    package : str
        Whose folder ``templates`` has the template.
    template : str
        The body of the page; it may import the macros of ``macros.html``.
    title : str
    data : mapping
        Figures for the script and for other programs, as types that JSON has; NaN and infinities become null.
    style : str
        Further rules of the style sheet.
    **values
        Of the template.
    """
    environment = _environment(package)
    body = environment.get_template(template).render(values)
    figures = _json(data)
    nonce = hashlib.sha256("\0".join([title, figures, body, style]).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return environment.get_template("frame.html").render(
        title=title,
        body=_markup(body),
        data=figures,
        policy=POLICY.format(nonce=nonce),
        nonce=nonce,
        style=_markup(f"{_file('page.css')}\n{style}"),
        script=_markup("\n".join(map(_file, SCRIPTS))),
    )


@cache
def _environment(package: str) -> Environment:
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, __package__))]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "figure": figure, "short": short}
    return environment


def _shown(value: Any) -> Any:
    """A value in a page: control characters as visible escapes, but for line ends and tabs."""
    return printable(value, keep="\n\r\t") if type(value) is str else value


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage; a dash where there is none."""
    return "–" if share is None else f"{share:.{digits}%}"


def figure(value: float | None, digits: int = 4) -> str:
    """A number with a fixed number of decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def count(value: int) -> str:
    """An integer with separators of thousands."""
    return f"{value:,}"


def short(value: object, most: int = 24) -> str:
    """A name of at most ``most`` characters on one line."""
    name = printable(value)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON that is safe inside of a ``<script>`` element."""
    from jinja2.utils import htmlsafe_json_dumps

    return htmlsafe_json_dumps(_finite(data), dumps=json.dumps, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, (list, tuple)) else value


def _markup(text: str) -> Markup:
    from markupsafe import Markup

    return Markup(text)


@cache
def _file(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8").strip()
