"""Prepares a training: data, model, packers, activation cache and resumed state, in the order of their dependencies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..checks import as_json, is_number
from ..classifier.checkpoint import SPEC_FILE, read_held_out
from ..classifier.classifier import Classifier
from ..classifier.schema import read_spec
from ..compute import DTYPES, Compute
from ..data.label_types import about_names, about_number
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.lengths import truncation
from ..data.packing import Packer
from ..data.readers import TextData
from ..data.splits import without_validation
from ..data.tokenizers import with_prompt
from ..distributed import ProcessGroup
from ..errors import ModelError, UsageError
from ..evaluation.tables import evaluation_parts
from ..models.build import reuses_head
from ..models.hub import ModelSource, find_model, pair_tokenizer, read_json, with_own_tokenizer
from ..paths import user_path
from ..progress import say, warn
from ..settings import CONTRASTIVE, Settings, with_recorded
from .activation_cache import make_cache
from .activation_plan import changes_each_epoch
from .baselines import Baseline, accuracies
from .identity import RunTexts, check_same_in_processes, run_identity
from .initial_classifier import dropout_rates, make_initial_state, make_token_store, resolve_lora, select_trained
from .objective import (
    AnyObjective,
    ContrastiveObjective,
    MultiLabelObjective,
    Objective,
    resolve_class_weights,
    resolve_sample_weights,
)
from .recipes import (
    HELD_OUT,
    MEASURE,
    Phase,
    ResolvedSettings,
    TrainingTexts,
    chosen_line,
    resolve_settings,
    taking_over,
)
from .result import Measured
from .resume import Saved, check_dtype, load_saved, numerics, restore
from .run import PREEMPTED_EARLY, Run
from .session import Session, open_session
from .strategy import choose_strategy
from .texts import Data, read_texts
from .trainer import Trainer


@contextmanager
def prepare(settings: Settings) -> Iterator[Run]:
    """Prepares one training; within the block, the run holds its folder, its process group and its signal handlers.

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
    with open_session(settings) as session:
        with session.preemption.at_once(PREEMPTED_EARLY):
            recorded = session.recorded()
            run = prepare_run(
                session, session.settings, read_texts(session.settings, recorded.get("classes")), recorded
            )
        yield run


def _as_recorded(settings: Settings, recorded: Mapping[str, Any]) -> Settings:
    try:
        return with_recorded(settings, recorded)
    except UsageError as error:
        raise ModelError(f"{settings.output_dir}: a setting of the checkpoint is wrong: {error}") from error


def _with_choices(
    asked: Settings, recorded: Mapping[str, Any], begun: ResolvedSettings | None
) -> tuple[Settings, Mapping[str, Any]]:
    """Settings with the choices of the resumed checkpoint, or of an earlier training of the call; and these choices."""
    chosen: Mapping[str, Any] = recorded.get("settings", {})
    asked = _as_recorded(asked, chosen)
    if begun is None:
        return asked, chosen
    solved = begun.solved or (begun.may_take_head and asked.trainable == "head")
    return taking_over(asked, begun), {"pooler": begun.pooler, "pooling": begun.pooling, "solved": solved}


def _common_compute(asked: Settings, session: Session) -> Compute:
    """The computation, in a dtype that is ``"auto"`` for the processors of all processes."""
    compute = Compute.resolve(session.device, asked.dtype, asked.backend)
    if asked.dtype == "auto" and session.group.any(compute.dtype_name == "float32"):
        return replace(compute, dtype=DTYPES["float32"])
    return compute


def _find_source(
    settings: Settings, encoder: LabelEncoder | MultiLabelEncoder, recorded: Mapping[str, Any], commit: str | None
) -> ModelSource:
    """Finds the model: a resumed run's commit, and with the tokenizer's own rules where its head is reused.

    A text is data where a pretrained model becomes a classifier: names of special tokens in it are split. A classifier
    that is trained further reads them as it did before.
    """
    source = find_model(*_named_model(settings, recorded, commit))
    tokenizer = recorded.get("tokenizer")
    splits = tokenizer is not None and tokenizer.get("split_special_tokens", True) is True
    if settings.weights == "pretrained" and not splits and reuses_head(source, encoder):
        return with_own_tokenizer(source)
    return source


def _named_model(
    settings: Settings, recorded: Mapping[str, Any], commit: str | None
) -> tuple[str | os.PathLike[str], str, str | None]:
    """Arguments of :func:`find_model`: a resumed run stays on the commit of the hub that it began with.

    The commit of a folder's adapter is that of its base, which is another repository.
    """
    begun_with = recorded.get("settings", {})
    if begun_with.get("model") == as_json(settings.model) and begun_with.get("revision") == settings.revision:
        commit = recorded.get("base", {}).get("revision")
    if isinstance(commit, str) and not os.path.isdir(user_path(settings.model)):
        return str(settings.model).partition("@")[0], settings.weights, commit
    return settings.model, settings.weights, settings.revision


def prepare_run(
    session: Session,
    asked: Settings,
    data: Data,
    recorded: Mapping[str, Any],
    *,
    begun: ResolvedSettings | None = None,
    commit: str | None = None,
    phase: Phase | None = None,
    may_take_head: bool = False,
    all_texts: TextData | None = None,
    baselines: list[Baseline] | None = None,
    measured: Measured | None = None,
    saves: bool = True,
) -> Run:
    """Prepares a training in an open session.

    Parameters
    ----------
    session : Session
    asked : Settings
        Those of the session, or others with the same data.
    data : Data
        The texts, which need not be those of the settings, and their classes.
    recorded : mapping
        ``pyllmclf.json`` of the resumed checkpoint; empty without one.
    begun : ResolvedSettings, optional
        Settings of the first training of this call, whose choices this one takes over.
    commit : str, optional
        Of the model's repository, where an earlier training of this call has found it.
    phase : Phase, optional
        What the training is part of.
    may_take_head : bool
        As in :class:`ResolvedSettings`.
    all_texts : TextData, optional
        The texts that the rule counts; by default the training texts.
    baselines : list of Baseline, optional
        Baselines on the same validation texts, where they are measured already.
    measured : Measured, optional
        Where a training without the held-out texts has just ended; a resumed run has its checkpoint's.
    saves : bool
        Whether checkpoints are written into the session's folder, if it has one.

    Raises
    ------
    UsageError, DataError, ModelError, ResourceError
        As :func:`pyllmclf.finetune`.
    """
    texts, encoder = data.texts, data.encoder
    started = time.perf_counter()
    group, run_folder = session.group, session.folder if saves else None
    asked_dtype = asked.dtype
    asked, chosen = _with_choices(asked, recorded, begun)
    compute = _common_compute(asked, session)
    source = _find_source(asked, encoder, recorded, commit)
    known = TrainingTexts((all_texts or texts["train"]).texts, len(encoder.names), compute.device, group.world_size)
    settings = resolve_settings(asked, source, known, chosen)
    settings = replace(settings, phase=phase, may_take_head=may_take_head)
    source = _reading(source, data, settings.prompt)
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
    if run_folder is not None or group.world_size > 1:
        identity = run_identity(state, run_texts, objective.class_weight, group.world_size)
    if group.world_size > 1:
        assert identity is not None
        check_same_in_processes(group, state, identity, texts.get("test"))
    cache, obstacle = make_cache(state.model, list(read_in_epochs.values()), rates, settings, compute, group)
    strategy = choose_strategy(settings.strategy, state.model, group, compute)
    saved = None
    if run_folder is not None and run_folder.newest is not None:
        assert identity is not None
        best = run_folder.best_of(run_folder.newest) if settings.early_stopping is not None else None
        saved = load_saved(state, run_folder.newest, best, identity, run_texts, numerics(cache, strategy, compute))
        if not saved.training["finished"]:
            check_dtype(saved.folder, asked_dtype, compute)
        run_folder.adopt()
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
        folder=run_folder,
        identity=identity,
        strategy=strategy,
        started=started,
        session_started=session.started,
        baselines=_known_baselines(settings, baselines, saved, texts, group),
        measured=measured or _recorded_measured(saved, group),
    )
    if measured is None and (line := chosen_line(asked, settings)) is not None:
        say(line, settings.progress)
    if measured is None and asked_dtype == "auto" and compute.rounds_operands:
        say("matmuls in bfloat16 (dtype='float32' turns it off)", settings.progress)
    _announce(run, obstacle, again=measured is not None)
    if group.any(saved is not None):
        restore(trainer, state, saved)
    if saved is not None:
        progress = f"step {trainer.step}, {len(trainer.history)} epochs done"
        say(f"resumed from {saved.folder}: {progress}", settings.progress)
    return run


def _reading(source: ModelSource, data: Data, prompt: str) -> ModelSource:
    """The source with the tokenizer of the texts, or of pairs, with the prompt."""
    tokenizer = pair_tokenizer(source.tokenizer, source.config) if data.has_pairs else source.tokenizer
    return replace(source, tokenizer=with_prompt(tokenizer, prompt))


def _recorded_measured(saved: Saved | None, group: ProcessGroup) -> Measured | None:
    """What a resumed checkpoint of a training on all texts records of the one before, in all processes.

    Raises
    ------
    ModelError
        If its record is malformed.
    """
    record = None if saved is None else (str(saved.folder), saved.training.get("measured"))
    folder, measured = group.broadcast_object(record) or ("", None)
    if measured is None:
        return None
    try:
        found = Measured(dict(measured["metrics"]), dict(measured["baselines"]))
        evaluation_parts(found.metrics, "validation")
        accuracies(found.baselines)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"{folder}: the record of its held-out texts is malformed ({error!r}).") from error
    if saved is not None:
        file = saved.folder / SPEC_FILE
        found = replace(found, held_out=read_held_out(saved.folder, read_spec(read_json(file), file)))
    return found


def _known_baselines(
    settings: Settings,
    measured: list[Baseline] | None,
    saved: Saved | None,
    texts: Mapping[str, TextData],
    group: ProcessGroup,
) -> list[Baseline]:
    """Baselines that are measured already, or that the resumed checkpoint records, in all processes.

    Raises
    ------
    ModelError
        If their record is malformed.
    """
    if measured is not None:
        return measured
    record = None if saved is None else (str(saved.folder), saved.training.get("baselines"))
    folder, baselines = group.broadcast_object(record) or ("", None)
    try:
        found = [Baseline.from_record(each) for each in baselines or []]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: the record of its baselines is malformed ({error!r}).") from error
    if found and any(len(each.right) != len(texts.get("validation", ())) for each in found):
        raise ModelError(f"{folder}: its baselines are those of other validation texts.")
    return found


def _make_objective(
    settings: Settings, encoder: LabelEncoder | MultiLabelEncoder, labels: np.ndarray, weights: np.ndarray | None
) -> AnyObjective:
    if settings.loss == CONTRASTIVE:
        return ContrastiveObjective()
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


def _skipped(settings: ResolvedSettings, texts: Mapping[str, TextData]) -> dict[str, int]:
    """Empty texts left out of each split; those of validation texts from the training texts count as training texts."""
    counts = {split: data.skipped for split, data in texts.items()}
    if "validation" in counts and _from_training_texts(settings):
        counts["validation"] = 0
    return counts


def _from_training_texts(settings: ResolvedSettings) -> bool:
    """Whether the validation texts, if any, are a part of the training texts."""
    return is_number(settings.validation) or settings.phase in (MEASURE, HELD_OUT)


def _announce(run: Run, obstacle: str | None, *, again: bool) -> None:
    """Reports lengths of the texts, skipped texts, unusual classes, the activation cache and the strategy.

    With ``again``, a training before this one has warned of the training texts.
    """
    progress, trainer = run.settings.progress, run.trainer
    if trainer.group.is_first and not again:
        for line in _about_classes(run):
            warn(line, progress)
    say(f"train: {run.lengths}", progress)
    truncated = {split: truncation(packer) for split, packer in run.packers.items() if packer.cut}
    if progress or again:
        truncated.pop("train", None)  # the line above has it
    if truncated and trainer.group.is_first:
        lines = "; ".join(f"{split}: {line}" for split, line in truncated.items())
        # Windows of pairs may leave tokens of first texts out.
        has_windows = run.settings.long_texts == "windows"
        advice = "" if has_windows else "; long_texts='windows' (--long-texts windows) reads all tokens"
        warn(f"{lines}{advice}.", progress)
    for split, skipped in run.skipped.items():
        if skipped and split != "train":
            say(f"{split}: {skipped:,} rows with an empty text, or without text or label, left out", progress)
    _announce_cache(trainer, obstacle)
    if trainer.group.world_size > 1:
        say(f"{trainer.group.world_size} processes, strategy {run.strategy}", progress)


def _about_classes(run: Run) -> list[str]:
    """Lines on classes that differ only in white space or case, and on those that no validation text has."""
    names, texts = run.state.encoder.names, len(run.texts["train"])
    lines = [*filter(None, [about_number(len(names), texts)]), *about_names(names)]
    if "validation" in run.texts and _from_training_texts(run.settings) and not run.settings.multi_label:
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
