"""The file of rows that ``validate`` finds worth a look."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..text_pair import Text, named_parts
from .csv_rows import row_writer

if TYPE_CHECKING:
    from ..data.near_duplicates import NearDuplicate
    from ..data.readers import TextData
    from ..tuning.label_check import LabelCheck

COLUMNS = ("reason", "part", "where", "text", "text_pair", "label", "suggested", "score", "similar_to", "similarity")


def check_output(path: Path, data: Sequence[str], checkpoint: Path | None) -> None:
    """Checks, before the work, that findings can be written.

    Raises
    ------
    UsageError
        If the name ends otherwise, or the file would replace the data or be written into the classifier.
    ResourceError
        If the file can't be written.
    """
    from ..data.atomic_folder import check_writable
    from .evaluate import check_outputs

    if path.suffix.lower() not in (".csv", ".jsonl"):
        raise UsageError(f"--output {path}: its name must end in .csv or .jsonl.")
    for source in data:
        check_outputs({"--output": path}, Path(source), [] if checkpoint is None else [checkpoint])
    check_writable(path)


def write_findings(
    path: Path,
    splits: Mapping[str, TextData],
    near: Mapping[tuple[int, int], Sequence[NearDuplicate]],
    check: LabelCheck | None,
) -> None:
    """Writes the rows to look at, as CSV or JSON lines.

    Their ``reason`` is ``"label"`` (probably wrong, the most suspicious first), ``"duplicate"`` or
    ``"near_duplicate"`` (of a text of an earlier part), or ``"confused"`` (the classifier's errors between the classes
    that it confuses most).

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    from ..data.atomic_folder import new_file

    rows = [*_of_labels(check), *_duplicates(splits), *_near(splits, near), *_confused(check)]
    with new_file(path) as file:
        if path.suffix.lower() == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            return
        writer = row_writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([row.get(name, "") for name in COLUMNS] for row in rows)


def _row(reason: str, part: str, where: str, text: Text, label: Any, **more: Any) -> dict[str, Any]:
    return {"reason": reason, "part": part, "where": where, **named_parts(text), "label": _name(label), **more}


def _name(label: Any) -> str:
    return "|".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _of_labels(check: LabelCheck | None) -> Iterator[dict[str, Any]]:
    for each in (None if check is None else check.issues) or ():
        more = {"suggested": str(each.suggested), "score": each.score}
        yield _row("label", each.part, each.where, each.text, each.label, **more)


def _duplicates(splits: Mapping[str, TextData]) -> Iterator[dict[str, Any]]:
    """Texts of each part that an earlier one has, too."""
    seen: dict[Text, str] = {}
    for name, part in splits.items():
        assert part.labels is not None
        for row, (text, label) in enumerate(zip(part.texts, part.labels, strict=True)):
            if text in seen:
                yield _row("duplicate", name, part.where(row), text, label, similar_to=seen[text], similarity=1.0)
        for row, text in enumerate(part.texts):
            seen.setdefault(text, part.where(row))


def _near(
    splits: Mapping[str, TextData], near: Mapping[tuple[int, int], Sequence[NearDuplicate]]
) -> Iterator[dict[str, Any]]:
    names = list(splits)
    for (first, second), found in near.items():
        earlier, part = splits[names[first]], splits[names[second]]
        assert part.labels is not None
        for each in found:
            more = {"similar_to": earlier.where(each.first), "similarity": each.similarity}
            text, label = part.texts[each.second], part.labels[each.second]
            yield _row("near_duplicate", names[second], part.where(each.second), text, label, **more)


def _confused(check: LabelCheck | None) -> Iterator[dict[str, Any]]:
    for name, pairs in ({} if check is None else check.confused).items():
        for pair in pairs:
            for each in pair["examples"]:
                more = {"suggested": str(pair["predicted"]), "score": each["probability"]}
                yield _row("confused", name, each["where"], each["text"], pair["true"], **more)
