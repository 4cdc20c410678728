"""What a classifier says of the labels of data, as lines, tables and values of JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..tables import Line, Part, Table
from ..text_pair import named_parts, parts_of

if TYPE_CHECKING:
    from ..text_pair import Text
    from ..tuning.label_check import LabelCheck

SHOWN = 20  # labels in a terminal
PAIRS = 10  # of classes
CHARACTERS = 60  # of a text


def label_parts(check: LabelCheck) -> list[Part]:
    """Labels that are probably wrong and confused classes: the first of each, and where probabilities are from."""
    parts: list[Part] = [Line(line) for line in _remarks(check)]
    if check.issues:
        rows = [
            (each.where, str(each.label), str(each.suggested), f"{each.score:.3f}", _short(each.text))
            for each in check.issues[:SHOWN]
        ]
        count = len(check.issues)
        more = f", the first {SHOWN}" if count > SHOWN else ""
        parts += [Line(f"{count:,} labels to look at{more}:"), Table(_HEADER, rows, left=3)]
    elif check.issues is not None:
        parts.append(Line("no label looks wrong"))
    for name, pairs in check.confused.items():
        if pairs:
            rows = [
                (
                    str(each["true"]),
                    str(each["predicted"]),
                    f"{each['texts']:,}",
                    f"{each['share']:.1%}",
                    each["examples"][0]["where"],
                )
                for each in pairs[:PAIRS]
            ]
            parts += [Line(f"{name}: most confused classes"), Table(_CONFUSED, rows, left=2)]
    return parts


_HEADER = ("where", "label", "suggested", "score", "text")
_CONFUSED = ("class", "predicted", "texts", "of the class", "as in")


def _remarks(check: LabelCheck) -> list[str]:
    """Where the probabilities are from, and what was not checked."""
    saved, own = check.texts["out_of_fold"], check.texts["classifier"]
    lines = []
    if saved:
        lines.append(f"{saved:,} texts are checked with the out-of-fold probabilities of tune")
    if own:
        lines.append(
            f"{own:,} texts are checked with the classifier's own probabilities, which hide the wrong labels of texts "
            "that it was trained on; tune saves out-of-fold ones"
        )
    if check.unknown:
        lines.append(f"{check.unknown:,} texts are not checked: the classifier lacks their label")
    if check.issues is None:
        lines.append("labels that are probably wrong need cleanlab: pip install 'pyllmclf[labels]'")
    return lines


def label_values(check: LabelCheck) -> dict[str, Any]:
    """The check as JSON can hold it."""
    issues = None
    if check.issues is not None:
        issues = [
            {
                "part": each.part,
                "where": each.where,
                **named_parts(each.text),
                "label": str(each.label),
                "suggested": str(each.suggested),
                "score": each.score,
                "probabilities": each.probabilities,
            }
            for each in check.issues
        ]
    confused = {
        name: [
            pair
            | {
                "true": str(pair["true"]),
                "predicted": str(pair["predicted"]),
                "examples": [
                    {"where": each["where"], **named_parts(each["text"]), "probability": each["probability"]}
                    for each in pair["examples"]
                ],
            }
            for pair in pairs
        ]
        for name, pairs in check.confused.items()
    }
    return {"label_issues": issues, "confused": confused, "checked": check.texts | {"unknown_label": check.unknown}}


def _short(text: Text) -> str:
    line = " ".join(" | ".join(parts_of(text)).split())
    return line if len(line) <= CHARACTERS else line[: CHARACTERS - 1] + "…"
