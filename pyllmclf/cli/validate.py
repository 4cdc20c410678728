"""``pyllmclf validate``: looks for problems in data."""

from __future__ import annotations

from collections.abc import Sequence
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
from .training_plan import plan_sentence, training_plan

if TYPE_CHECKING:
    from ..classifier.checkpoint import Kind
    from ..data.near_duplicates import NearDuplicate
    from ..data.readers import TextData
    from ..data.readers.columns import Columns
    from ..data.tokenizers import Tokenizer
    from ..tuning.label_check import LabelCheck


@user_paths
def validate(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="[CHECKPOINT] DATA",
            help="Data, or a classifier's folder and data whose labels it checks. " + DATA_HELP,
        ),
    ],
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
    near_duplicates: Annotated[
        bool, typer.Option(help="Look for texts of a part that nearly are texts of another.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option(help="Write the rows to look at to this file, with their lines: .csv or .jsonl.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if there is a problem.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Count everything in data that makes a training or its figures wrong, and say what finetune would do with them.

    With a classifier, also list labels that are probably wrong and classes that it confuses.
    """
    from ..argument_checks import AUTO
    from ..data.validation import validate_splits
    from ..settings import check_argument, check_label_separator
    from .findings import check_output, write_findings
    from .label_section import label_parts, label_values

    check_argument("missing", missing)
    check_argument("prompt", prompt)
    if prompt != AUTO and model is None:
        raise UsageError("prompt is about the tokens of a model: give model (--model), or leave prompt out.")
    check_label_separator(label_separator, several=multi_label)
    checkpoint, source = _checkpoint_and_data(data, multi_label)
    if output is not None:
        check_output(output, [source, *(test or ())], checkpoint)
    kind = None if checkpoint is None else _kind(checkpoint)
    separator = label_separator if multi_label else None
    picked: list[Columns] = []
    options: dict[str, Any] = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "label_separator": separator if kind is None else kind.label_separator,
        "encoding_errors": encoding_errors,
        "missing": "collect" if missing == "error" else "collect_blank",
        "encoding": encoding,
        "delimiter": delimiter,
        "header": header,
        "on_pick": picked.append,
    }
    splits = _read(source, test or (), options, None if kind is None else kind.has_pairs)
    columns = picked[-1] if picked else None
    has_pairs = next(iter(splits.values())).has_pairs
    tokenizer, positions = (None, None) if model is None else _reading(model, as_prompt("prompt", prompt), has_pairs)
    check = None if checkpoint is None else _check_labels(checkpoint, splits)
    near = _near_duplicates(splits) if near_duplicates else None
    report = validate_splits(splits, tokenizer, positions, near)
    plan = training_plan(splits, report, columns, missing)
    if output is not None:
        write_findings(output, splits, near or {}, check)
    if as_json:
        labels = {} if check is None else {"checkpoint": str(checkpoint)} | label_values(check)
        print_json({"data": source} | report.to_dict() | labels | {"finetune": plan})
    else:
        print_parts([*report.parts(), *([] if check is None else label_parts(check))])
        print(printable(plan_sentence(plan)))
    if strict and report.problems and plan["unreadable"] is None:
        raise DataError(f"{source}: {len(report.problems)} problems; the first: {report.problems[0]}.")
    if plan["refuses"] is not None:
        raise DataError(f"{plan['refuses']}.")


def _checkpoint_and_data(names: list[str], multi_label: bool) -> tuple[Path | None, str]:
    """The classifier, if two names are given, and the data.

    Raises
    ------
    UsageError
        If the names are not those of a classifier and data, or of data alone.
    """
    from ..classifier.checkpoint import SPEC_FILE
    from ..classifier.replaceable import is_run
    from ..classifier.swapped import check_checkpoint_and_data, is_model

    if len(names) > 2:
        raise UsageError(f"validate takes data, or a classifier and data, not {len(names)} names; see --test.")
    if len(names) == 1:
        folder = Path(names[0])
        if folder.is_dir() and ((folder / SPEC_FILE).is_file() or is_run(folder)):
            raise UsageError(f"{folder} is a classifier; name the data behind it: pyllmclf validate {folder} DATA.")
        return None, names[0]
    check_checkpoint_and_data(*names)
    if not is_model(names[0]) or not Path(names[0]).is_dir():
        raise UsageError(
            f"{names[0]} is not the folder of a classifier; of two names the first is a classifier's, and more data "
            f"are named with --test: pyllmclf validate {names[0]} --test {names[1]}."
        )
    if multi_label:
        raise UsageError("the classifier says whether texts have several labels; leave --multi-label out.")
    return Path(names[0]), names[1]


def _kind(checkpoint: Path) -> Kind:
    """What data the classifier takes.

    Raises
    ------
    UsageError
        If texts may have several labels.
    """
    from ..classifier.checkpoint import kind_of

    kind = kind_of(checkpoint)
    if kind.label_separator is not None:
        raise UsageError(
            f"{checkpoint}: its texts may have several labels, which are not checked with a classifier; check the data "
            "alone: pyllmclf validate DATA --multi-label."
        )
    return kind


def _read(source: str, test: Sequence[str], options: dict[str, Any], pairs: bool | None) -> dict[str, TextData]:
    """The parts of the data, and the test files, by name; rows that can't be used are collected in them."""
    from ..data.label_types import settle_types
    from ..data.named import is_named
    from ..data.readers import ReadOptions
    from ..data.sources import applicable, check_applicable, read_named, read_source, split_sources

    reading = ReadOptions(**options, pairs=pairs)
    check_applicable(reading, [source, *test])

    def read(part: Any, pairs: bool | None) -> TextData:
        return read_source(part, applicable(replace(reading, pairs=pairs), part), default_split="test")

    splits: dict[str, TextData] = {}
    if is_named(source):
        splits |= read_named(source, ReadOptions(pairs=pairs))
    else:
        for name, part in (split_sources(source) or {"train": source}).items():
            splits[name] = read(part, next(iter(splits.values())).has_pairs if splits else pairs)
    has_pairs = next(iter(splits.values())).has_pairs
    splits |= {path: read(path, has_pairs) for path in test}
    settled = settle_types(list(splits.values()))
    return {name: split for name, split in zip(splits, settled, strict=True) if split is not None}


def _near_duplicates(splits: dict[str, TextData]) -> dict[tuple[int, int], list[NearDuplicate]] | None:
    """Near-duplicates across the parts; ``None``, with a line that says so, where datasketch is not installed."""
    from ..data.near_duplicates import INSTALL, is_available, near_duplicates
    from ..progress import progress_bar, say

    if len(splits) < 2:
        return {}
    if not is_available():
        say(f"only equal texts are found across parts: near-duplicates need datasketch, {INSTALL}", progress=True)
        return None
    with progress_bar(sum(map(len, splits.values())), "text", True) as bar:
        return near_duplicates(list(splits.values()), bar.update)


def _check_labels(checkpoint: Path, splits: dict[str, TextData]) -> LabelCheck:
    from ..classifier import load
    from ..tuning.label_check import check_labels

    return check_labels(checkpoint, load(checkpoint), splits)


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
