"""Export of a classifier for other tools: its formats, and the files of each."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from ..choices import ExportFormat, words
from ..data.atomic_folder import write_folder
from ..data.temporary import temporary_folder
from ..errors import UsageError
from ..models.export import copies, write_graph
from ..models.lora import merge_lora
from .huggingface import model_files, side_files
from .replaceable import check_replaceable
from .state import ClassifierState, why_not_padded, why_not_transformers

EXPORT_FORMATS = words(ExportFormat)
GRAPH_FORMATS = ("onnx", "torch")


def export_classifier(
    state: ClassifierState,
    path: Path,
    format: str,
    *,
    overwrite: bool = False,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Writes a folder for other tools, which is complete or absent.

    Parameters
    ----------
    state : ClassifierState
        Unchanged.
    path : Path
        A new or empty folder; with ``overwrite`` also one of an earlier export, classifier or run.
    format : {"huggingface", "peft", "onnx", "torch"}
        See :meth:`pyllmclf.Classifier.export`.
    finish : callable, optional
        Takes the folder of a graph before it is in its place, and changes it.

    Raises
    ------
    UsageError
        As :func:`check_export`, or if a package is missing.
    ResourceError
        If the folder can't be written.
    """
    check_export(state, path, format, overwrite=overwrite)
    if format == "peft":
        write_folder(path, model_files(state, path), overwrite=overwrite)
        return
    state = merged_state(state)
    if format == "huggingface":
        write_folder(path, model_files(state, path), overwrite=overwrite)
        return
    with temporary_folder() as folder:
        write_graph(state.model, format, folder, state.layout.max_length, typed=state.reads_types)
        if finish is not None:
            finish(folder)
        names = sorted(path.name for path in folder.iterdir())
        write_folder(path, side_files(state) | copies(folder, names), overwrite=overwrite)


def check_export(state: ClassifierState, path: Path, format: str, *, overwrite: bool = False) -> None:
    """Checks that a classifier can be exported to a path in a format.

    Raises
    ------
    UsageError
        If the format is unknown or can't express the classifier, or the path exists and is neither an empty folder
        nor, with ``overwrite``, one that may be replaced.
    """
    if format not in EXPORT_FORMATS:
        raise UsageError(f"format={format!r} is unknown; it is one of {', '.join(EXPORT_FORMATS)}.")
    if overwrite:
        check_replaceable(path)
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            f"{path} exists already, and an export would replace it; name a new folder, or replace an earlier export "
            "or classifier with overwrite=True (--overwrite)."
        )
    obstacle = why_not_padded(state) if format in GRAPH_FORMATS else why_not_transformers(state)
    if obstacle is not None:
        raise UsageError(f"the classifier can't be exported: {obstacle}. A checkpoint of pyllmclf has all of it.")
    if format == "peft" and state.lora is None:
        raise UsageError("the classifier was not trained with LoRA and has no adapter; choose format='huggingface'.")


def merged_state(state: ClassifierState) -> ClassifierState:
    """The state with LoRA merged into a copy of the weights; the argument itself without LoRA.

    The merged weights are those of no hub revision, so that ``hub_id`` and ``revision`` are ``None``.
    """
    if state.lora is None:
        return state
    merged = replace(state, model=deepcopy(state.model), lora=None, hub_id=None, revision=None)
    merge_lora(merged.model)
    return merged
