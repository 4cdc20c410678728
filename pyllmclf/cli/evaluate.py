"""``pyllmclf eval`` and ``pyllmclf-eval``: measure a classifier on labelled texts."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ..errors import UsageError
from ..file_types import DATA_HELP
from ..printable import printable
from ..text_pair import Text, named_parts, parts_of
from .csv_rows import row_writer
from .formulas import without_formulas
from .loading import open_classifier
from .options import (
    Abstain,
    Backend,
    Calibration,
    Conformal,
    Costs,
    Debug,
    Delimiter,
    Device,
    EmptyTexts,
    Encoding,
    EncodingErrors,
    Header,
    HeldOutTexts,
    Json,
    LabelColumn,
    LoadDtype,
    Missing,
    Progress,
    TextColumn,
    TextPairColumn,
    Thresholds,
    Version,
    print_json,
    user_paths,
)
from .tables import print_evaluation

if TYPE_CHECKING:
    from ..classifier import Classifier
    from ..classifier.checkpoint import Kind
    from ..data.readers import TextData
    from ..evaluation.metrics import EvaluationResult
    from ..evaluation.multi_label import MultiLabelResult


@user_paths
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the output folder of finetune.")],
    data: Annotated[str, typer.Argument(help=DATA_HELP)],
    split: Annotated[
        str | None,
        typer.Option(help="Split of a data set: train, validation, test or all. Default: test, else validation."),
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    label_column: LabelColumn = None,
    empty_texts: EmptyTexts = "keep",
    encoding_errors: EncodingErrors = "strict",
    missing: Missing = "error",
    encoding: Encoding = "auto",
    delimiter: Delimiter = None,
    header: Header = True,
    predictions: Annotated[
        Path | None, typer.Option(help="Write each text's label, prediction and probabilities to this CSV file.")
    ] = None,
    escape_formulas: Annotated[
        bool,
        typer.Option(
            "--escape-formulas", help="In --predictions, put ' before texts that a spreadsheet takes for formulas."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write intervals, curves, errors and provenance to this HTML file.")
    ] = None,
    explain_errors: Annotated[
        int,
        typer.Option(help="In --report, mark the words that weigh most in the most confident errors: this many."),
    ] = 0,
    compare: Annotated[
        list[Path] | None,
        typer.Option(help="Compare with this checkpoint on the same texts by McNemar's test; can be repeated."),
    ] = None,
    abstain: Abstain = None,
    conformal: Conformal = None,
    thresholds: Thresholds = None,
    cost: Costs = None,
    held_out: HeldOutTexts = None,
    device: Device = "auto",
    dtype: LoadDtype = "auto",
    calibration: Calibration = None,
    backend: Backend = "auto",
    progress: Progress = True,
    as_json: Json = False,
    debug: Debug = False,
    version: Version = False,
) -> None:
    """Measure a classifier on labelled texts."""
    from ..classifier.checkpoint import find_checkpoint, kind_of
    from ..classifier.swapped import check_checkpoint_and_data
    from ..classifier.third_party import is_third_party
    from ..data.atomic_folder import check_writable, new_file
    from ..data.sources import read_data

    if escape_formulas and predictions is None:
        raise UsageError("--escape-formulas changes the file of --predictions; give --predictions, or leave it out.")
    if explain_errors < 0 or (explain_errors and report is None):
        raise UsageError("--explain-errors is the number of errors whose words --report marks; give --report, too.")
    check_checkpoint_and_data(checkpoint, data)
    kind = kind_of(checkpoint)
    # Data are read first: errors in them are reported before weights are read.
    texts = read_data(
        data,
        split=split,
        default_split="test",
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        pairs=kind.has_pairs,
        label_separator=kind.label_separator,
        empty_texts=empty_texts,
        encoding_errors=encoding_errors,
        missing=missing,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
    )
    _check_alike([kind, *map(kind_of, compare or ())])
    folders = [path if is_third_party(path) else find_checkpoint(path) for path in (checkpoint, *(compare or ()))]
    outputs = {"--predictions": predictions, "--report": report}
    check_outputs(outputs, Path(data), [*folders, checkpoint, *(compare or ())])
    for read in (calibration, held_out):
        if read is not None:
            check_outputs(outputs, Path(read), [])

    opened = partial(
        open_classifier,
        progress=progress,
        device=device,
        dtype=dtype,
        backend=backend,
        calibration=calibration,
        abstain=abstain,
        conformal=conformal,
        thresholds=thresholds,
        costs=cost,
        held_out=held_out,
    )
    classifier = opened(folders[0])
    # Files are opened first: a wrong path is reported before the work.
    with ExitStack() as stack:
        file = None if predictions is None else stack.enter_context(new_file(predictions))
        if report is not None:
            check_writable(report)
        result = classifier.evaluate_texts(texts, progress=progress)
        if file is not None:
            _write_predictions(file, texts.texts, result, classifier.state.label_separator, escape_formulas)
    if report is not None:
        _report_of(folders[0], classifier, result, texts, report, explain_errors, progress)
    others = {
        str(path): opened(folder).evaluate_texts(texts, progress=progress)
        for path, folder in zip(compare or (), folders[1:], strict=True)
    }
    if as_json:
        header = {"checkpoint": str(checkpoint), "data": data, "split": split, "evaluated": texts.origin}
        comparisons = {name: other.to_dict() | _compare(result, other) for name, other in others.items()}
        print_json(header | result.to_dict() | ({"compared": comparisons} if comparisons else {}))
        return
    print_evaluation(result.to_dict(), title=f"{checkpoint} on {texts.origin}")
    for name, other in others.items():
        print_evaluation(other.to_dict(), title=f"{name} on {texts.origin}")
        _print_comparison(printable(checkpoint), printable(name), _compare(result, other))


def _report_of(
    folder: Path,
    classifier: Classifier,
    result: EvaluationResult | MultiLabelResult,
    texts: TextData,
    path: Path,
    explain_errors: int,
    progress: bool,
) -> None:
    """Writes the report of an evaluation of a checkpoint, with the words of some errors marked."""
    from ..classifier.checkpoint import training_history
    from ..classifier.explained_errors import explained_errors
    from ..classifier.measured import training_baselines
    from ..classifier.third_party import is_third_party
    from ..evaluation.report import provenance, write_report
    from ..explain import HIGHLIGHT_CSS

    sources = provenance(folder, texts, str(classifier.device))
    tokens = classifier.packer(texts.texts).tokens_by_text
    history, baselines = [], None
    if not is_third_party(folder):
        history, baselines = training_history(folder), training_baselines(folder)
    marked = explained_errors(classifier, result, texts, explain_errors, progress=progress)
    style = HIGHLIGHT_CSS if marked else ""
    more: dict[str, Any] = {"baselines": baselines, "highlights": marked, "highlight_style": style}
    write_report(path, result, texts, tokens, sources, history, **more)


def _check_alike(kinds: list[Kind]) -> None:
    """Raises :class:`UsageError` unless checkpoints that are compared take the same data."""
    if len({each.label_separator is None for each in kinds}) > 1:
        raise UsageError(
            "--compare: one checkpoint has one label per text, and another several; compare checkpoints of one kind."
        )
    if len({each.has_pairs for each in kinds}) > 1:
        raise UsageError(
            "--compare: one checkpoint reads pairs of texts, and another single texts; compare checkpoints of one kind."
        )


def check_outputs(outputs: dict[str, Path | None], data: Path, folders: list[Path]) -> None:
    """Checks that no output replaces another file of this call, or is written into a checkpoint.

    An output beside the checkpoints of a run is accepted, unless it is a JSON file: the folder could become a model's.
    A file in a folder of data counts as data, unless it is an HTML file.

    Raises
    ------
    UsageError
        If an output would do so.
    """
    # realpath, not Path.resolve(), which fails where a link leads to itself.
    resolved = {option: Path(os.path.realpath(path)) for option, path in outputs.items() if path is not None}
    if len(set(resolved.values())) < len(resolved):
        raise UsageError(f"{' and '.join(resolved)} name the same file; give each a file of its own.")
    source = Path(os.path.realpath(data))
    for option, path in resolved.items():
        in_folder = path.is_relative_to(source) and path.is_file() and path.suffix.lower() not in (".html", ".htm")
        if path == source or in_folder:
            raise UsageError(f"{option} {outputs[option]} would be written over the data; choose another name.")
        for folder in folders:
            inside = path.is_relative_to(os.path.realpath(folder))
            if inside and (path.suffix == ".json" or (folder / "config.json").is_file()):
                raise UsageError(f"{option} {outputs[option]} would be written into {folder}; choose another place.")


def _compare(
    first: EvaluationResult | MultiLabelResult, second: EvaluationResult | MultiLabelResult
) -> dict[str, float]:
    """McNemar's test of two results on the same texts.

    Raises
    ------
    UsageError
        If the classes differ.
    """
    from ..evaluation.statistics import mcnemar

    names = [list(map(str, result.classes)) for result in (first, second)]
    if sorted(names[0]) != sorted(names[1]) or first.labels.shape != second.labels.shape:
        classes = "; ".join(", ".join(each[:12]) + (", ..." if len(each) > 12 else "") for each in names)
        raise UsageError(f"--compare: the checkpoints have different classes: {classes}.")
    only_first, only_second, p = mcnemar(first, second)
    return {"only_first": only_first, "only_second": only_second, "p": p}


def _print_comparison(first: str, second: str, counts: dict[str, float]) -> None:
    print(
        f"only {first} is right on {counts['only_first']:,} texts, only {second} on {counts['only_second']:,}; "
        f"McNemar's test: p = {counts['p']:.4g}\n"
    )


def _write_predictions(
    file: TextIO, texts: list[Text], result: Any, separator: str | None, escape_formulas: bool
) -> None:
    escape = without_formulas if escape_formulas else str
    writer = row_writer(file)
    header = [*named_parts(texts[0]), "label", "prediction", *(f"probability_{name}" for name in result.classes)]
    writer.writerow(map(escape, header))
    for text, label, prediction, row in zip(
        texts, result.labels, result.predictions, result.probabilities.tolist(), strict=True
    ):
        names = (_class_names(chosen, result.classes, separator) for chosen in (label, prediction))
        writer.writerow([*map(escape, (*parts_of(text), *names)), *row])


def _class_names(chosen: Any, classes: list[Any], separator: str | None) -> str:
    """Name of a class by its number, or joined names of several by an array of 0 and 1."""
    if separator is None:
        return str(classes[chosen])
    return separator.join(str(label) for label, has in zip(classes, chosen, strict=True) if has)
