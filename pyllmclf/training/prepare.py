"""Prepares a training: data, model, packers, activation cache and resumed state, in the order that they need."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..checks import is_number
from ..classifier.checkpoint import SPEC_FILE
from ..classifier.classifier import Classifier
from ..classifier.state import ClassifierState
from ..compute import Compute, resolve_device
from ..data.labels import Label, LabelEncoder, MultiLabelEncoder
from ..data.packing import Packer, RowLayout
from ..data.readers import TextData
from ..data.splits import read_splits
from ..data.token_store import TokenStore
from ..data.tokenizers import special_count
from ..distributed import ProcessGroup, local_device, processes
from ..errors import UsageError
from ..lora_config import LoRAConfig
from ..models.build import build_model, take_adapter
from ..models.config import ModelConfig
from ..models.hub import ModelSource, find_model, read_json
from ..models.layers import DropoutRates
from ..models.sequence_classifier import HeadSpec
from ..progress import say, warn
from ..settings import Settings, recorded_settings, with_recorded
from ..torch_state import own_torch_state
from .activation_cache import ActivationCache, make_cache
from .activation_plan import changes_each_epoch
from .callbacks import Callback, resolve_callbacks
from .objective import MultiLabelObjective, Objective, resolve_class_weights
from .preemption import Preemption
from .resume import RunTexts, check_alike, identity, load_saved, numerics, restore
from .run import Run
from .run_folder import RunFolder
from .strategy import choose_strategy
from .trainable import set_trainable
from .trainer import Trainer

PREEMPTED = "preempted before training began; resume=True (--resume) begins or goes on with it."


@contextmanager
def prepare(settings: Settings) -> Iterator[Run]:
    """Prepares a training; within the block, the run has its folder, its process group and its signal handlers.

    Parameters
    ----------
    settings : Settings

    Yields
    ------
    Run

    Raises
    ------
    UsageError, DataError, ModelError, ResourceError
    PreemptedError
        If a signal arrives before the training begins.
    """
    started = time.perf_counter()
    if settings.train is None:
        raise UsageError("train is missing: give the name of a data set, a file, a DataFrame or (texts, labels).")
    with ExitStack() as held:
        held.enter_context(own_torch_state())
        device = local_device(resolve_device(settings.device))
        compute = Compute.resolve(device, settings.dtype, settings.backend)
        output_dir = None if settings.output_dir is None else Path(settings.output_dir)
        callbacks = resolve_callbacks(settings.callbacks, settings.logs, output_dir)
        group = held.enter_context(processes(device))
        folder = None
        if not group.is_first:
            settings, callbacks = replace(settings, progress=False), []
        elif output_dir is not None:
            folder = held.enter_context(RunFolder(output_dir, resume=settings.resume, keep_last=settings.keep_last))
        alone = group.world_size == 1
        preemption = held.enter_context(Preemption(enabled=output_dir is not None, alone=alone))
        with preemption.at_once(PREEMPTED):
            recorded = _recorded(folder, group)
            settings = with_recorded(settings, recorded.get("settings", {}))
            compute = Compute.resolve(device, settings.dtype, settings.backend)
            run = _prepare(settings, compute, group, folder, preemption, callbacks, recorded.get("classes"), started)
        yield run


def _recorded(folder: RunFolder | None, group: ProcessGroup) -> Mapping[str, Any]:
    """Settings and classes of the checkpoint that is resumed, in all processes; empty where there is none."""
    spec = None
    if folder is not None and folder.newest is not None:
        spec = read_json(folder.newest / SPEC_FILE)
    spec = group.broadcast_object(spec) or {}
    return {
        name: value
        for name, kind in (("settings", dict), ("classes", list))
        if isinstance(value := spec.get(name), kind)
    }


def _prepare(
    settings: Settings,
    compute: Compute,
    group: ProcessGroup,
    folder: RunFolder | None,
    preemption: Preemption,
    callbacks: list[Callback],
    classes: list[Label] | None,
    started: float,
) -> Run:
    texts, encoder = read_texts(settings, classes)
    labels = encoder.encode(texts["train"])
    minimised = MultiLabelObjective if settings.multi_label else Objective
    objective = minimised(resolve_class_weights(settings.class_weights, encoder, labels), settings.label_smoothing)
    source = find_model(settings.model, settings.weights)
    lora = _lora_of(settings, source)
    rates = dropout_rates(settings.dropout, source.config, lora)
    store = _token_store(texts["train"].texts, source, settings)
    state = _state(settings, compute, source, lora, encoder, store)
    classifier = Classifier(state, compute=compute)
    set_trainable(state.model, settings.trainable, lora, torch.Generator().manual_seed(settings.seed))
    if source.adapter is not None and lora is not None:
        take_adapter(state.model, source, encoder)
    cache_dir = None if settings.cache_dir is None else Path(settings.cache_dir)
    packers = {"train": Packer(store, source.tokenizer, state.layout, labels)}
    packers |= {
        split: classifier.packer(data.texts, encoder.encode(data), cache_dir)
        for split, data in texts.items()
        if split != "train"
    }
    read_often = {split: packer for split, packer in packers.items() if split != "test"}
    run_texts = RunTexts(
        texts["train"], texts.get("validation"), {split: packer.store for split, packer in read_often.items()}
    )
    own = None
    if folder is not None or group.world_size > 1:
        own = identity(state, run_texts, objective.class_weight, group.world_size)
    if group.world_size > 1:
        assert own is not None
        check_alike(group, state, own, texts.get("test"))
    cache, obstacle = make_cache(state.model, list(read_often.values()), rates, settings, compute, group)
    strategy = choose_strategy(settings.strategy, state.model, group, compute)
    saved = None
    if folder is not None and folder.newest is not None:
        assert own is not None
        best = folder.best_of(folder.newest) if settings.early_stopping is not None else None
        saved = load_saved(state, folder.newest, best, own, run_texts, numerics(cache, strategy, compute))
        folder.adopt()
    trainer = Trainer(
        state.model,
        packers["train"],
        settings,
        compute,
        rates=rates,
        objective=objective,
        cache=cache,
        callbacks=callbacks,
        preemption=preemption,
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
        identity=own,
        strategy=strategy,
        started=started,
    )
    _announce(run, obstacle)
    if group.any(saved is not None):
        restore(trainer, state, saved)
    if saved is not None:
        done = f"step {trainer.step}, {len(trainer.history)} epochs done"
        say(f"resumed from {saved.folder}: {done}", settings.progress)
    return run


def read_texts(
    settings: Settings, classes: list[Label] | None = None
) -> tuple[dict[str, TextData], LabelEncoder | MultiLabelEncoder]:
    """The texts of each split, and the classes of the training texts.

    Parameters
    ----------
    settings : Settings
    classes : list of str or int, optional
        The classes of the run that is resumed, in its order.

    Raises
    ------
    UsageError, DataError
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
    )
    encoder: LabelEncoder | MultiLabelEncoder
    if separator is None:
        encoder = LabelEncoder.fit(train, classes)
    else:
        # A fraction is not drawn in the classes' proportions here, and may hold all texts of one class.
        beside = validation if is_number(settings.validation) else None
        encoder = MultiLabelEncoder.fit(train, separator, beside, classes)
    for name, asked in (("early_stopping", settings.early_stopping is not None), ("calibrate", settings.calibrate)):
        if asked and validation is None:
            raise UsageError(f"{name} needs validation texts: give validation, as a part or as a fraction.")
    if settings.report and validation is None and test is None:
        raise UsageError("report needs texts to measure on: give test or validation.")
    splits = {"train": train, "validation": validation, "test": test}
    return {split: data for split, data in splits.items() if data is not None}, encoder


def dropout_rates(dropout: float | str, config: ModelConfig, lora: LoRAConfig | None) -> DropoutRates:
    """The rate of each site: one for all, or with ``"config"`` those of the model's configuration."""
    lora_rate = 0.0 if lora is None else lora.dropout
    if dropout == "config":
        return DropoutRates(
            embedding=config.embedding_dropout,
            attention=config.attention_dropout,
            hidden=config.hidden_dropout,
            head=config.head_dropout,
            lora=lora_rate,
        )
    assert not isinstance(dropout, str)
    return DropoutRates(dropout, dropout, dropout, dropout, lora_rate)


def _lora_of(settings: Settings, source: ModelSource) -> LoRAConfig | None:
    if source.adapter is None or settings.lora_config is None:
        return settings.lora_config
    if settings.lora is not None:
        raise UsageError(f"{source.name} is an adapter, which is trained on as it is; lora can't be given.")
    return source.adapter.lora


def _token_store(texts: list[str], source: ModelSource, settings: Settings) -> TokenStore:
    if settings.cache_dir is None:
        store = TokenStore.from_texts(texts, source.tokenizer)
    else:
        store = TokenStore.cached(Path(settings.cache_dir), texts, source.tokenizer)
    store.check(source.config.vocab_size)
    return store


def _state(
    settings: Settings,
    compute: Compute,
    source: ModelSource,
    lora: LoRAConfig | None,
    encoder: LabelEncoder | MultiLabelEncoder,
    store: TokenStore,
) -> ClassifierState:
    """The classifier before its first step."""
    head = HeadSpec.resolve(source.config, settings.pooling, settings.causal, settings.head_bias)
    specials = special_count(source.tokenizer)
    layout = RowLayout.resolve(
        settings.padding,
        settings.max_length,
        settings.long_texts,
        positions=source.config.n_positions,
        longest_train=int(store.lengths.max()) + specials,
        specials=specials,
    )
    pretrained = settings.weights == "pretrained"
    merged = source.adapter is not None and lora is None
    resolved = {
        "lora": None if lora is None else asdict(lora),
        "device": str(compute.device),
        "dtype": compute.dtype_name,
    }
    return ClassifierState(
        model=build_model(
            source,
            len(encoder.classes),
            head,
            encoder,
            pretrained=pretrained,
            lora=lora is not None,
            seed=settings.seed,
        ),
        tokenizer=source.tokenizer,
        encoder=encoder,
        layout=layout,
        lora=lora,
        hub_id=source.hub_id if pretrained and not merged else None,
        revision=source.revision if pretrained and not merged else None,
        settings=recorded_settings(settings, asdict(head) | asdict(layout) | resolved),
    )


def _skipped(settings: Settings, texts: Mapping[str, TextData]) -> dict[str, int]:
    """Empty texts that were left out; of a fraction for validation they are counted with the training texts."""
    counts = {split: data.skipped for split, data in texts.items()}
    if "validation" in counts and is_number(settings.validation):
        counts["validation"] = 0
    return counts


def _announce(run: Run, obstacle: str | None) -> None:
    """Says what is read of the texts, and what is cached of frozen layers, or why nothing is where that matters."""
    progress, trainer = run.settings.progress, run.trainer
    say(f"train: {run.lengths}", progress)
    for split, skipped in run.skipped.items():
        if skipped and split != "train":
            say(f"{split}: {skipped:,} empty texts left out", progress)
    _announce_cache(trainer.cache, obstacle, run.settings.cache, trainer.rates, progress)
    if trainer.group.world_size > 1:
        say(f"{trainer.group.world_size} processes, strategy {run.strategy}", progress)


def _announce_cache(
    cache: ActivationCache | None, obstacle: str | None, asked: str, rates: DropoutRates, progress: bool
) -> None:
    if cache is not None:
        (say if cache.holds_all else warn)(str(cache), progress)
    elif obstacle is not None and asked not in ("auto", "off"):
        warn(f"nothing is kept of frozen layers: {obstacle}", progress)
    elif obstacle is not None and changes_each_epoch(rates):
        say(f"nothing is kept of frozen layers: {obstacle}", progress)
