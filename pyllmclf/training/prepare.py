"""Prepares a training: data, model, packers, activation cache and resumed state, in the order of their dependencies."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import is_number
from ..classifier.checkpoint import SPEC_FILE
from ..classifier.classifier import Classifier
from ..compute import Compute, resolve_device
from ..data.labels import Label, LabelEncoder, MultiLabelEncoder
from ..data.packing import Packer
from ..data.readers import TextData, without_zero_weights
from ..data.splits import read_splits
from ..distributed import ProcessGroup, local_device, processes
from ..errors import UsageError
from ..models.hub import find_model, read_json
from ..progress import say, warn
from ..settings import Settings, with_recorded
from ..torch_state import own_torch_state
from .activation_cache import make_cache
from .activation_plan import changes_each_epoch
from .callbacks import Callback, resolve_callbacks
from .identity import RunTexts, check_same_in_processes, run_identity
from .initial_classifier import dropout_rates, make_initial_state, make_token_store, resolve_lora, select_trained
from .objective import MultiLabelObjective, Objective, resolve_class_weights, resolve_sample_weights
from .preemption import Preemption
from .resume import load_saved, numerics, restore
from .run import Run
from .run_folder import RunFolder
from .strategy import choose_strategy
from .trainer import Trainer

PREEMPTED = "preempted before training began; start it again with resume=True (--resume)."


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
            folder = stack.enter_context(RunFolder(output_dir, resume=settings.resume, keep_last=settings.keep_last))
        single_process = group.world_size == 1
        preemption = stack.enter_context(Preemption(enabled=output_dir is not None, single_process=single_process))
        with preemption.at_once(PREEMPTED):
            recorded = _recorded(folder, group)
            settings = with_recorded(settings, recorded.get("settings", {}))
            compute = Compute.resolve(device, settings.dtype, settings.backend)
            session = _Session(compute, group, folder, preemption, callbacks, started)
            run = _prepare(settings, session, recorded.get("classes"))
        yield run


def _recorded(folder: RunFolder | None, group: ProcessGroup) -> Mapping[str, Any]:
    """Settings and classes that the resumed checkpoint records, in all processes; empty without a checkpoint."""
    spec = None
    if folder is not None and folder.newest is not None:
        spec = read_json(folder.newest / SPEC_FILE)
    spec = group.broadcast_object(spec) or {}
    return {
        name: value
        for name, kind in (("settings", dict), ("classes", list))
        if isinstance(value := spec.get(name), kind)
    }


def _prepare(settings: Settings, session: _Session, classes: list[Label] | None) -> Run:
    """Makes the run; ``classes`` are those that the resumed checkpoint records, in its order."""
    compute, group, folder = session.compute, session.group, session.folder
    texts, encoder = read_texts(settings, classes)
    labels = encoder.encode(texts["train"])
    weights = resolve_sample_weights(texts["train"].weights)
    objective = _make_objective(settings, encoder, labels, weights)
    source = find_model(settings.model, settings.weights)
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
    )
    _announce(run, obstacle)
    if group.any(saved is not None):
        restore(trainer, state, saved)
    if saved is not None:
        progress = f"step {trainer.step}, {len(trainer.history)} epochs done"
        say(f"resumed from {saved.folder}: {progress}", settings.progress)
    return run


def read_texts(
    settings: Settings, classes: list[Label] | None = None
) -> tuple[dict[str, TextData], LabelEncoder | MultiLabelEncoder]:
    """Reads the texts of each split, and determines the classes from the training texts.

    Parameters
    ----------
    settings : Settings
    classes : list of str or int, optional
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
        text_column=settings.text_column,
        label_column=settings.label_column,
        label_separator=separator,
        empty_texts=settings.empty_texts,
        encoding_errors=settings.encoding_errors,
        encoding=settings.encoding,
        delimiter=settings.delimiter,
        header=settings.header,
        sample_weight=settings.sample_weight,
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
    return {split: data for split, data in splits.items() if data is not None}, encoder


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
    """Reports lengths of the texts, skipped texts, the activation cache and the strategy."""
    progress, trainer = run.settings.progress, run.trainer
    say(f"train: {run.lengths}", progress)
    for split, skipped in run.skipped.items():
        if skipped and split != "train":
            say(f"{split}: {skipped:,} empty texts left out", progress)
    _announce_cache(trainer, obstacle)
    if trainer.group.world_size > 1:
        say(f"{trainer.group.world_size} processes, strategy {run.strategy}", progress)


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
