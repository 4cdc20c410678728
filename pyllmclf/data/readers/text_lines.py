"""Text files with a text per line, and their ways of writing a label into the line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ...errors import DataError
from .data_file import DataFile, data_file_of
from .delimited import read_delimited
from .encoding import open_text
from .notes import Notes
from .options import ReadOptions
from .text_data import TextData
from .values import checked_data

# A line with its number, and what becomes of it: its text and its label, or its labels.
Line = tuple[int, str]
Parsed = tuple[str, str | list[str]]

FASTTEXT = "__label__"
_BLANK = re.compile(r"\s*")
_FASTTEXT_LABEL = re.compile(rf"{FASTTEXT}\S+(?:\s+|$)")
# In a line from its end to its beginning.
_FASTTEXT_LABEL_REVERSED = re.compile(rf"\S+{FASTTEXT[::-1]}\s+")
# Below, lines that begin with a label can't be told from lines that don't.
LEAST_LINES = 6
MOST_CLASSES = 200
# Words with which English sentences begin; where lines begin with them, the first word is no label.
_SENTENCE_WORDS = re.compile(
    "a|an|and|are|as|at|but|by|can|did|do|does|for|from|has|have|he|her|his|how|i|if|in|is|it|its|my|of|on|or|"
    "our|she|so|that|the|there|they|this|to|was|we|were|what|when|where|which|who|why|will|with|would|you|your",
    re.IGNORECASE,
)


def read_text_lines(data: Path | DataFile, options: ReadOptions) -> TextData:
    """Reads a text file.

    Unlabelled texts are one per line. With labels, the file is what its content says: a delimited table with a header;
    fastText's ``__label__x text``; a label and a text with a tab between them; or ``label text`` where the first words
    are few and repeat (:func:`_first_words_are_labels`). A warning says which of them it is. Raises as
    :func:`.files.read_path`.
    """
    file = data_file_of(data)
    notes = Notes(file.origin)
    content = open_text(file, options.encoding_errors, options.encoding, notes).read()
    every = [(number, line.removesuffix("\r")) for number, line in enumerate(content.split("\n"), start=1)]
    if every[-1][1] == "":
        every.pop()
    lines = [(number, line) for number, line in every if line.strip()]
    if _is_table(lines[0][1] if lines else "", options):
        return read_delimited(file, options)
    parse, found = _fasttext(lines), "as fastText's lines"
    if parse is None and not options.labelled:
        notes.say()
        texts, numbers = [line for _, line in every], [number for number, _ in every]
        return checked_data(texts, None, file.origin, numbers, options)
    if not lines:
        raise DataError(f"{file}: there is no row.")
    if parse is None:
        parse, found = _tabs(lines) or _first_words(lines) or (None, "")
    if parse is None:
        raise DataError(
            f"{file}: no labels are found; a .txt file holds a table with a header (--no-header: without one), or "
            "lines of '__label__x text', of a label and a text with a tab between them, or of 'label text' with few "
            "labels that repeat."
        )
    if options.labelled:
        notes.add(found)
    notes.say()
    rows = [_parsed(parse, line, number, file) for number, line in lines]
    labels = [_one_or_all(found_labels, options) for _, found_labels in rows] if options.labelled else None
    texts, numbers = [text for text, _ in rows], [number for number, _ in lines]
    return checked_data(texts, labels, file.origin, numbers, options, untyped=True)


def _is_table(first: str, options: ReadOptions) -> bool:
    """Whether the options are about tables, or the first line names a column of texts and one of labels."""
    if options.chooses_columns:
        return True
    if options.delimiter is not None or not options.header or first.lower().startswith("sep="):
        return True
    if not options.labelled:
        return False
    try:
        headers = [next(csv.reader([first], delimiter=delimiter), []) for delimiter in ",\t;|"]
    except csv.Error:  # a field of more than 128 KiB, which is no name
        return False
    return any(len(header) > 1 and options.fits(header) for header in headers)


def _parsed(parse: Callable[[str], Parsed | None], line: str, number: int, file: DataFile) -> Parsed:
    parsed = parse(line)
    if parsed is None:
        raise DataError(f"{file}, line {number}: the line has no label, which other lines have.")
    return parsed


def _one_or_all(labels: str | list[str], options: ReadOptions) -> str | list[str]:
    if isinstance(labels, list) and len(labels) == 1 and options.label_separator is None:
        return labels[0]
    return labels


def _fasttext(lines: list[Line]) -> Callable[[str], Parsed | None] | None:
    """The parser of lines with fastText's labels at the beginning, or at the end; ``None`` for other lines."""
    first = lines[0][1] if lines else ""
    if _fasttext_line(first) is not None:
        return _fasttext_line
    return None if _fasttext_at_end(first) is None else _fasttext_at_end


def _fasttext_line(line: str) -> Parsed | None:
    end = _end_of_all(_FASTTEXT_LABEL, line)
    return None if end is None else (line[end:], _without_prefix(line[:end]))


def _fasttext_at_end(line: str) -> Parsed | None:
    end = _end_of_all(_FASTTEXT_LABEL_REVERSED, line[::-1]) if FASTTEXT in line else None
    return None if end is None else (line[: len(line) - end], _without_prefix(line[len(line) - end :]))


def _end_of_all(label: re.Pattern[str], line: str) -> int | None:
    """End of the labels with which a line begins, after white space; ``None`` if there is none."""
    # One match for each label: a pattern of several takes quadratic time, or memory for each label.
    match = _BLANK.match(line)
    assert match is not None
    start = end = match.end()
    while (match := label.match(line, end)) is not None:
        end = match.end()
    return None if end == start else end


def _without_prefix(labels: str) -> list[str]:
    return [label.removeprefix(FASTTEXT) for label in labels.split()]


def _tabs(lines: list[Line]) -> tuple[Callable[[str], Parsed | None], str] | None:
    """The parser of lines with a label before their first tab, or after their last one.

    The label's side is the one with fewer different values; of two alike, the one with shorter values.
    """
    if not all("\t" in line for _, line in lines):
        return None

    def variety(values: list[str]) -> tuple[int, int]:
        return len(set(values)), sum(map(len, values))

    before = variety([line.split("\t", 1)[0] for _, line in lines])
    after = variety([line.rsplit("\t", 1)[1] for _, line in lines])
    if min(before, after)[0] > max(MOST_CLASSES, len(lines) // 2):
        return None
    return (_label_before_tab, "as label<TAB>text") if before <= after else (_label_after_tab, "as text<TAB>label")


def _label_before_tab(line: str) -> Parsed | None:
    label, tab, text = line.partition("\t")
    return (text, label) if tab else None


def _label_after_tab(line: str) -> Parsed | None:
    text, tab, label = line.rpartition("\t")
    return (text, label) if tab else None


def _first_words(lines: list[Line]) -> tuple[Callable[[str], Parsed | None], str] | None:
    words = [line.split(None, 1) for _, line in lines]
    if any(len(pair) < 2 for pair in words) or not _first_words_are_labels([pair[0] for pair in words]):
        return None
    classes = sorted({pair[0] for pair in words})
    shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
    return _label_before_space, f"as 'label text' with {len(classes)} labels ({shown})"


def _first_words_are_labels(words: list[str]) -> bool:
    """Whether the first words of lines are labels: two to 200 different ones, each several times.

    Whole numbers need to be there twice each. Words need five lines each on average, and none may be one with which
    English sentences begin: texts without labels begin with many words, some of them once.
    """
    counts = Counter(words)
    if len(words) < LEAST_LINES or not 2 <= len(counts) <= MOST_CLASSES or min(counts.values()) < 2:
        return False
    if all(re.fullmatch(r"[+-]?\d+", word) for word in counts):
        return True
    return len(words) >= 5 * len(counts) and not any(map(_SENTENCE_WORDS.fullmatch, counts))


def _label_before_space(line: str) -> Parsed | None:
    label, text = line.split(None, 1)
    return text, label
