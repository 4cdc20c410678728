"""Prepares a training: data, model, packers, activation cache and resumed state, in the order of their dependencies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import as_json, is_number
from ..classifier.checkpoint import SPEC_FILE
from ..classifier.classifier import Classifier
from ..classifier.schema import read_spec
from ..classifier.swapped import check_model_and_data
from ..compute import Compute, resolve_device
from ..data.label_types import about_names
from ..data.labels import Label, LabelEncoder, MultiLabelEncoder, with_classes
from ..data.lengths import truncation
from ..data.packing import Packer
from ..data.readers import TextData, without_zero_weights
from ..data.splits import read_splits, without_validation
from ..distributed import ProcessGroup, local_device, processes
from ..errors import ModelError, UsageError
from ..models.build import reuses_head
from ..models.hub import ModelSource, find_model, read_json, with_own_tokenizer
from ..progress import say, warn
from ..settings import Settings, with_recorded
from ..torch_state import own_torch_state
from .activation_cache import make_cache
from .activation_plan import changes_each_epoch
from .baselines import Baseline
from .callbacks import Callback, resolve_callbacks
from .identity import RunTexts, check_same_in_processes, run_identity
from .initial_classifier import dropout_rates, make_initial_state, make_token_store, resolve_lora, select_trained
from .objective import MultiLabelObjective, Objective, resolve_class_weights, resolve_sample_weights
from .preemption import Preemption
from .recipes import TrainingTexts, chosen_line, resolve_settings
from .resume import Saved, load_saved, numerics, restore
from .run import PREEMPTED_EARLY, Run
from .run_folder import RunFolder
from .strategy import choose_strategy
from .trainer import Trainer


@dataclass(frozen=True)
class _Session:
    """Resources of a run in this process, which :func:`prepare` releases at the end.

    Attributes
    ----------
    compute : Compute
    group : ProcessGroup
    folder : RunFolder or None
        In the first process, where there is an output folder.
    preemption : Preemption
    callbacks : list of Callback
        In the first process; empty in the others.
    started : float
        When preparing began, by ``time.perf_counter``.
    """

    compute: Compute
    group: ProcessGroup
    folder: RunFolder | None
    preemption: Preemption
    callbacks: list[Callback]
    started: float


@contextmanager
def prepare(settings: Settings) -> Iterator[Run]:
    """Prepares a training; within the block, the run holds its folder, its process group and its signal handlers.

    Parameters
    ----------
    settings : Settings

    Yields
    ------
    Run

    Raises
    ------
    UsageError, DataError, ModelError, ResourceError
        As :func:`pyllmclf.finetune`.
    PreemptedError
        If a signal arrives before the training begins.
    """
    started = time.perf_counter()
    if settings.train is None:
        raise UsageError("train is missing: give the name of a data set, a file, a DataFrame or (texts, labels).")
    check_model_and_data(settings.model, settings.train)
    with ExitStack() as stack:
        stack.enter_context(own_torch_state())
        device = local_device(resolve_device(settings.device))
        compute = Compute.resolve(device, settings.dtype, settings.backend)
        output_dir = None if settings.output_dir is None else Path(settings.output_dir)
        callbacks = resolve_callbacks(settings.callbacks, settings.logs, output_dir)
        group = stack.enter_context(processes(device))
        folder = None
        if not group.is_first:
            settings, callbacks = replace(settings, progress=False), []
        elif output_dir is not None:
            folder = stack.enter_context(_run_folder(output_dir, settings))
        single_process = group.world_size == 1
        preemption = stack.enter_context(Preemption(enabled=output_dir is not None, single_process=single_process))
        with preemption.at_once(PREEMPTED_EARLY):
            recorded = _recorded(folder, group)
            settings = _as_recorded(settings, recorded.get("settings", {}))
            compute = Compute.resolve(device, settings.dtype, settings.backend)
            session = _Session(compute, group, folder, preemption, callbacks, started)
            run = _prepare(settings, session, recorded)
        yield run


def _run_folder(path: Path, settings: Settings) -> RunFolder:
    return RunFolder(path, resume=settings.resume, keep_last=settings.keep_last, overwrite=settings.overwrite)


def _as_recorded(settings: Settings, recorded: Mapping[str, Any]) -> Settings:
    try:
        return with_recorded(settings, recorded)
    except UsageError as error:
        raise ModelError(f"{settings.output_dir}: a setting of the checkpoint is wrong: {error}") from error


def _recorded(folder: RunFolder | None, group: ProcessGroup) -> Mapping[str, Any]:
    """The ``pyllmclf.json`` of the resumed checkpoint, in all processes; empty without a checkpoint."""
    spec = None
    if folder is not None and folder.newest is not None:
        file = folder.newest / SPEC_FILE
        spec = read_spec(read_json(file), file).to_json()
    return group.broadcast_object(spec) or {}


def _find_source(
    settings: Settings, encoder: LabelEncoder | MultiLabelEncoder, recorded: Mapping[str, Any]
) -> ModelSource:
    """Finds the model: a resumed run's commit, and with the tokenizer's own rules where its head is reused.

    A text is data where a pretrained model becomes a classifier: names of special tokens in it are split. A classifier
    that is trained further reads them as it did before.
    """
    source = find_model(*_named_model(settings, recorded))
    tokenizer = recorded.get("tokenizer")
    splits = tokenizer is not None and tokenizer.get("split_special_tokens", True) is True
    if settings.weights == "pretrained" and not splits and reuses_head(source, encoder):
        return with_own_tokenizer(source)
    return source


def _named_model(settings: Settings, recorded: Mapping[str, Any]) -> tuple[str | os.PathLike[str], str, str | None]:
    """Arguments of :func:`find_model`: a resumed run stays on the commit of the hub that it began with."""
    commit = recorded.get("base", {}).get("revision")
    begun_with = recorded.get("settings", {})
    same = begun_with.get("model") == as_json(settings.model) and begun_with.get("revision") == settings.revision
    if isinstance(commit, str) and same:
        return str(settings.model).partition("@")[0], settings.weights, commit
    return settings.model, settings.weights, settings.revision


def _prepare(asked: Settings, session: _Session, recorded: Mapping[str, Any]) -> Run:
    """Makes the run; ``recorded`` is what the resumed checkpoint records."""
    compute, group, folder = session.compute, session.group, session.folder
    texts, encoder = read_texts(asked, recorded.get("classes"))
    source = _find_source(asked, encoder, recorded)
    known = TrainingTexts(texts["train"].texts, len(encoder.names), compute.device)
    settings = resolve_settings(asked, source, known, recorded.get("settings", {}))
    labels = encoder.encode(texts["train"])
    weights = resolve_sample_weights(texts["train"].weights)
    objective = _make_objective(settings, encoder, labels, weights)
    lora = resolve_lora(settings, source)
    rates = dropout_rates(settings.dropout, source.config, lora)
    store = make_token_store(texts["train"].texts, source, settings)
    state = make_initial_state(settings, compute, source, lora, encoder, store)
    classifier = Classifier(state, compute=compute)
    select_trained(state, settings, source)
    train_packer = Packer(store, state.tokenizer, state.layout, labels, weights)
    packers = {"train": train_packer} | _other_packers(settings, classifier, texts)
    read_in_epochs = {split: packer for split, packer in packers.items() if split != "test"}
    tokens = {split: packer.store for split, packer in read_in_epochs.items()}
    run_texts = RunTexts(texts["train"], texts.get("validation"), tokens, weights)
    identity = None
    if folder is not None or group.world_size > 1:
        identity = run_identity(state, run_texts, objective.class_weight, group.world_size)
    if group.world_size > 1:
        assert identity is not None
        check_same_in_processes(group, state, identity, texts.get("test"))
    cache, obstacle = make_cache(state.model, list(read_in_epochs.values()), rates, settings, compute, group)
    strategy = choose_strategy(settings.strategy, state.model, group, compute)
    saved = None
    if folder is not None and folder.newest is not None:
        assert identity is not None
        best = folder.best_of(folder.newest) if settings.early_stopping is not None else None
        saved = load_saved(state, folder.newest, best, identity, run_texts, numerics(cache, strategy, compute))
        folder.adopt()
    trainer = Trainer(
        state.model,
        packers["train"],
        settings,
        compute,
        rates=rates,
        objective=objective,
        cache=cache,
        callbacks=session.callbacks,
        preemption=session.preemption,
        group=group,
        strategy=strategy,
    )
    run = Run(
        settings,
        classifier,
        trainer,
        texts=texts,
        packers=packers,
        skipped=_skipped(settings, texts),
        folder=folder,
        identity=identity,
        strategy=strategy,
        started=session.started,
        baselines=[] if settings.baselines == "off" else _recorded_baselines(saved, texts, group),
    )
    if (line := chosen_line(asked, settings)) is not None:
        say(line, settings.progress)
    _announce(run, obstacle)
    if group.any(saved is not None):
        restore(trainer, state, saved)
    if saved is not None:
        progress = f"step {trainer.step}, {len(trainer.history)} epochs done"
        say(f"resumed from {saved.folder}: {progress}", settings.progress)
    return run


def _recorded_baselines(saved: Saved | None, texts: Mapping[str, TextData], group: ProcessGroup) -> list[Baseline]:
    """Baselines that the resumed checkpoint records, in all processes.

    Raises
    ------
    ModelError
        If their record is malformed.
    """
    record = None if saved is None else (str(saved.folder), saved.training.get("baselines"))
    folder, baselines = group.broadcast_object(record) or ("", None)
    try:
        found = [Baseline.from_record(each) for each in baselines or []]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: the record of its baselines is malformed ({error!r}).") from error
    if found and any(len(each.right) != len(texts.get("validation", ())) for each in found):
        raise ModelError(f"{folder}: its baselines are those of other validation texts.")
    return found


def read_texts(
    settings: Settings, classes: list[Label] | None = None
) -> tuple[dict[str, TextData], LabelEncoder | MultiLabelEncoder]:
    """Reads the texts of each split, and determines the classes from the training texts.

    Parameters
    ----------
    settings : Settings
    classes : list of str, int or bool, optional
        Classes of the resumed run, in its order.

    Returns
    -------
    texts : dict of str to TextData
        ``"train"``, and ``"validation"`` and ``"test"`` where there are such texts.
    encoder : LabelEncoder or MultiLabelEncoder

    Raises
    ------
    UsageError, DataError
        If data can't be read or don't fit the settings.
    """
    separator = settings.separator
    train, validation, test = read_splits(
        settings.train,
        settings.validation,
        settings.test,
        seed=settings.seed,
        classes=classes,
        text_column=settings.text_column,
        label_column=settings.label_column,
        label_separator=separator,
        empty_texts=settings.empty_texts,
        encoding_errors=settings.encoding_errors,
        sample_weight=settings.sample_weight,
        missing=settings.missing,
        encoding=settings.encoding,
        delimiter=settings.delimiter,
        header=settings.header,
    )
    encoder: LabelEncoder | MultiLabelEncoder
    if separator is None:
        encoder = LabelEncoder.fit(train, classes)
    else:
        # With several labels, a validation fraction is not stratified, and may hold all texts of a class.
        fraction = validation if is_number(settings.validation) else None
        encoder = MultiLabelEncoder.fit(train, separator, fraction, classes)
    for name, enabled in (("early_stopping", settings.early_stopping is not None), ("calibrate", settings.calibrate)):
        if enabled and validation is None:
            raise UsageError(f"{name} needs validation texts: give validation, as data or as a fraction.")
    if settings.report and validation is None and test is None:
        raise UsageError("report needs texts to measure on: give test or validation.")
    weighted = without_zero_weights(train)  # after the classes, which all texts have
    if len(weighted) < len(train):
        say(f"train: {len(train) - len(weighted):,} texts of weight 0 left out", settings.progress)
    splits = {"train": weighted, "validation": validation, "test": test}
    return {split: with_classes(data, encoder) for split, data in splits.items() if data is not None}, encoder


def _make_objective(
    settings: Settings, encoder: LabelEncoder | MultiLabelEncoder, labels: np.ndarray, weights: np.ndarray | None
) -> Objective | MultiLabelObjective:
    class_weights = resolve_class_weights(settings.class_weights, encoder, labels, weights)
    kind = MultiLabelObjective if settings.multi_label else Objective
    return kind(class_weights, settings.label_smoothing)


def _other_packers(settings: Settings, classifier: Classifier, texts: Mapping[str, TextData]) -> dict[str, Packer]:
    """Packers of the splits other than the training texts."""
    cache_dir = None if settings.cache_dir is None else Path(settings.cache_dir)
    return {
        split: classifier.packer(data.texts, classifier.state.encoder.encode(data), cache_dir)
        for split, data in texts.items()
        if split != "train"
    }


def _skipped(settings: Settings, texts: Mapping[str, TextData]) -> dict[str, int]:
    """Empty texts left out of each split; those of a validation fraction count as training texts."""
    counts = {split: data.skipped for split, data in texts.items()}
    if "validation" in counts and is_number(settings.validation):
        counts["validation"] = 0
    return counts


def _announce(run: Run, obstacle: str | None) -> None:
    """Reports lengths of the texts, skipped texts, unusual classes, the activation cache and the strategy."""
    progress, trainer = run.settings.progress, run.trainer
    if trainer.group.is_first:
        for line in _about_classes(run):
            warn(line, progress)
    say(f"train: {run.lengths}", progress)
    truncated = {split: truncation(packer) for split, packer in run.packers.items() if packer.cut}
    if progress:
        truncated.pop("train", None)  # the line above has it
    if truncated and trainer.group.is_first:
        lines = "; ".join(f"{split}: {line}" for split, line in truncated.items())
        warn(f"{lines}; long_texts='windows' (--long-texts windows) reads all tokens.", progress)
    for split, skipped in run.skipped.items():
        if skipped and split != "train":
            say(f"{split}: {skipped:,} rows with an empty text, or without text or label, left out", progress)
    _announce_cache(trainer, obstacle)
    if trainer.group.world_size > 1:
        say(f"{trainer.group.world_size} processes, strategy {run.strategy}", progress)


def _about_classes(run: Run) -> list[str]:
    """Lines on classes that differ only in white space or case, and on those that no validation text has."""
    lines = about_names(run.state.encoder.names)
    if "validation" in run.texts and is_number(run.settings.validation) and not run.settings.multi_label:
        lines += filter(None, [without_validation(run.texts["train"], run.texts["validation"])])
    return lines


def _announce_cache(trainer: Trainer, obstacle: str | None) -> None:
    """Reports the activation cache; warns where it is smaller than requested, or missing."""
    cache, settings = trainer.cache, trainer.settings
    if cache is not None:
        (say if cache.holds_all else warn)(str(cache), settings.progress)
    elif obstacle is not None:
        line = f"activations of frozen layers are not cached: {obstacle}"
        if settings.cache not in ("auto", "off"):
            warn(line, settings.progress)
        elif changes_each_epoch(trainer.rates):
            say(line, settings.progress)
