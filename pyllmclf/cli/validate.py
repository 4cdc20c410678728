"""``pyllmclf validate``: looks for problems in data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..arguments import as_prompt
from ..errors import DataError, UsageError
from ..file_types import DATA_HELP
from ..printable import printable
from .options import (
    Debug,
    Delimiter,
    Encoding,
    EncodingErrors,
    Header,
    Json,
    LabelColumn,
    Missing,
    Prompt,
    TextColumn,
    TextPairColumn,
    print_json,
    user_paths,
)
from .tables import print_parts

if TYPE_CHECKING:
    from ..data.data_report import DataReport
    from ..data.readers import TextData
    from ..data.readers.columns import Columns
    from ..data.tokenizers import Tokenizer


@user_paths
def validate(
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    test: Annotated[
        list[str] | None, typer.Option(help="File whose texts are searched among the training texts; can be repeated.")
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    label_column: LabelColumn = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Texts may have several labels, or none.")] = False,
    label_separator: Annotated[
        str, typer.Option(help="String between the labels of a text, with --multi-label.")
    ] = "|",
    encoding_errors: EncodingErrors = "strict",
    missing: Missing = "error",
    encoding: Encoding = "auto",
    delimiter: Delimiter = None,
    header: Header = True,
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's tokenizer, and compare with its positions.")
    ] = None,
    prompt: Prompt = "auto",
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if there is a problem.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Count everything in data that makes a training or its figures wrong, and say what finetune would do with them."""
    from ..argument_checks import AUTO
    from ..data.label_types import settle_types
    from ..data.named import is_named, load_named
    from ..data.readers import ReadOptions
    from ..data.sources import applicable, check_applicable, read_source, split_sources
    from ..data.validation import validate_splits
    from ..settings import check_argument, check_label_separator

    check_argument("missing", missing)
    check_argument("prompt", prompt)
    if prompt != AUTO and model is None:
        raise UsageError("prompt is about the tokens of a model: give model (--model), or leave prompt out.")
    picked: list[Columns] = []
    options = ReadOptions(
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        label_separator=label_separator if multi_label else None,
        encoding_errors=encoding_errors,
        missing="collect" if missing == "error" else "collect_blank",
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        on_pick=picked.append,
    )
    check_label_separator(label_separator, several=multi_label)
    check_applicable(options, [data, *(test or ())])

    def read(source: Any, pairs: bool | None = None) -> TextData:
        return read_source(source, applicable(replace(options, pairs=pairs), source), default_split="test")

    if is_named(data):
        splits = dict(load_named(data))
    else:
        splits = {}
        for name, part in (split_sources(data) or {"train": data}).items():
            splits[name] = read(part, next(iter(splits.values())).has_pairs if splits else None)
    columns = picked[-1] if picked else None
    has_pairs = next(iter(splits.values())).has_pairs
    splits |= {path: read(path, has_pairs) for path in test or ()}
    settled = settle_types(list(splits.values()))
    splits = {name: split for name, split in zip(splits, settled, strict=True) if split is not None}
    tokenizer, positions = (None, None) if model is None else _reading(model, as_prompt("prompt", prompt), has_pairs)
    report = validate_splits(splits, tokenizer, positions)
    plan = _plan(splits, report, columns, missing)
    if as_json:
        print_json({"data": data} | report.to_dict() | {"finetune": plan})
    else:
        print_parts(report.parts())
        print(printable(_sentence(plan)))
    if strict and report.problems and plan["unreadable"] is None:
        raise DataError(f"{data}: {len(report.problems)} problems; the first: {report.problems[0]}.")
    if plan["refuses"] is not None:
        raise DataError(f"{plan['refuses']}.")


def _plan(
    splits: dict[str, TextData],
    report: DataReport,
    columns: Columns | None,
    missing: str,
) -> dict[str, Any]:
    """What ``finetune`` would do with the first split, and with the others as validation or test texts.

    Returns
    -------
    dict
        ``text_column``, ``text_pair_column`` and ``label_column`` (``None`` where the data have none), ``texts``,
        ``left_out`` (rows), ``classes`` (their number), ``labels`` (their kind), ``refuses`` (the reason, or ``None``)
        and ``unreadable`` (the reason, where a row can't be used).
    """
    from ..data.label_types import quoted_if_odd

    first, *others = report.splits.values()
    faults = [fault for split in splits.values() for fault in split.faults]
    skipped = [fault for fault in faults if missing == "skip" and fault.is_missing]
    raising = [fault for fault in faults if missing == "error" or not fault.is_missing]
    unreadable = f"{raising[0].where}: {raising[0].problem}" if raising else None
    refuses = unreadable
    if refuses is None and len(first.classes) < 2:
        refuses = "there are fewer than two classes" if first.texts else "no text is left"
    for name, classes in report.unknown_classes.items():
        if refuses is None:
            refuses = f"{name}: no training text has the label {quoted_if_odd(classes[0])}"
    if refuses is None and not all(split.texts for split in others):
        refuses = "a split has no text"
    return {
        "text_column": None if columns is None else ", ".join(columns.text_names),
        "text_pair_column": None if columns is None else columns.pair_name,
        "label_column": None if columns is None else columns.label_name,
        "texts": first.texts,
        "left_out": len(skipped),
        "classes": len(first.classes),
        "labels": first.labels,
        "refuses": refuses,
        "unreadable": unreadable,
    }


def _sentence(plan: dict[str, Any]) -> str:
    """The plan as a line."""
    if plan["refuses"] is not None:
        return f"finetune would refuse: {plan['refuses']}"
    columns = ""
    if plan["text_column"] is not None:
        texts = f"the texts of the column {plan['text_column']!r}"
        if plan["text_pair_column"] is not None:
            texts = f"the pairs of texts of the columns {plan['text_column']!r} and {plan['text_pair_column']!r}"
        columns = f"{texts} and the labels of {plan['label_column']!r}: "
    left_out = f"{plan['left_out']:,} rows are left out" if plan["left_out"] else "no row is left out"
    return (
        f"finetune would take {columns}{plan['texts']:,} texts, {plan['classes']:,} classes ({plan['labels']}); "
        f"{left_out}"
    )


def _reading(model: str, prompt: str | None, has_pairs: bool) -> tuple[Tokenizer, int]:
    """A model's tokenizer of texts, or of pairs, with the prompt, and positions; for an adapter, those of its base.

    Raises
    ------
    UsageError
        If the prompt leaves no room for text, or its tokens depend on the text.
    """
    from ..data.row_layout import RowLayout
    from ..data.tokenizers import special_count, with_prompt
    from ..models.adapters import ADAPTER_CONFIG
    from ..models.hub import find_model, pair_tokenizer

    source = find_model(model, "pretrained" if (Path(model) / ADAPTER_CONFIG).is_file() else "random")
    plain = pair_tokenizer(source.tokenizer, source.config) if has_pairs else source.tokenizer
    tokenizer, positions = with_prompt(plain, source.resolve_prompt(prompt)), source.config.n_positions
    specials = special_count(tokenizer)
    prompts = specials - special_count(plain)
    RowLayout.resolve("none", None, positions=positions, longest_train=0, specials=specials, prompt=prompts)
    return tokenizer, positions
