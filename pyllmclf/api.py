"""``finetune``: from data and a model's name to a classifier."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .arguments import plain_numbers
from .checks import is_number, is_rate
from .classifier import Classifier
from .classifier.state import ClassifierState
from .data.labels import LabelEncoder, MultiLabelEncoder
from .data.lengths import LengthReport
from .data.packing import Packer, RowLayout, check_padding
from .data.readers import LABEL_SEPARATOR, TextData, check_label_separator, check_reading
from .data.splits import read_splits
from .data.token_store import TokenStore
from .data.tokenizers import special_count
from .device import resolve_device, resolve_dtype
from .distributed import Processes, local_device, processes
from .errors import PreemptedError, UsageError
from .models.build import build_model, take_adapter
from .models.config import ModelConfig
from .models.hub import find_model
from .models.layers import DropoutRates
from .models.lora import LoRAConfig
from .models.sequence_classifier import HeadSpec, check_pooling
from .ops.dispatch import check_backend
from .progress import say, warn
from .torch_state import own_torch_state
from .training.activation_cache import FrozenPrefix, changes_each_epoch, make_prefix
from .training.activation_storage import check_cache
from .training.callbacks import Callback, resolve_callbacks
from .training.objective import MultiLabelObjective, Objective, resolve_class_weights
from .training.preemption import Preemption
from .training.records import EpochRecord
from .training.resume import arithmetic, check_alike, go_on, identity, load_saved
from .training.run import PreparedTraining
from .training.run_folder import RunFolder
from .training.settings import TrainingSettings
from .training.strategy import check_strategy, choose_strategy
from .training.trainable import check_trainable, set_trainable
from .training.trainer import Trainer


@dataclass(frozen=True)
class FinetuneResult:
    """What a run gave.

    Attributes
    ----------
    classifier : Classifier
        With the weights of the last step, or with ``early_stopping`` of the best epoch.
    history : list of EpochRecord
    metrics : dict
        ``"validation"`` and ``"test"``, where there are such data: figures of the classifier by name.
    timing : dict
        Seconds of preparing, training, evaluating and saving, optimizer steps, real tokens per second of training.
    output_dir : Path or None
    lengths : LengthReport
        Of the training texts.
    calibration : dict or None
        With ``calibrate``: the temperature, and log loss and expected calibration error of the validation texts before
        and after.
    """

    classifier: Classifier
    history: list[EpochRecord]
    metrics: dict[str, dict[str, Any]]
    timing: dict[str, float]
    output_dir: Path | None
    lengths: LengthReport
    calibration: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the classifier, as JSON can hold it."""
        return {
            "output_dir": None if self.output_dir is None else str(self.output_dir),
            "classes": self.classifier.classes_,
            "metrics": self.metrics,
            "history": [record.to_dict() for record in self.history],
            "timing": self.timing,
            "lengths": self.lengths.to_dict(),
            "calibration": self.calibration,
        }


@plain_numbers
@own_torch_state()
def finetune(
    model: str | os.PathLike[str] = "gpt2",
    train: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    text_column: str | None = None,
    label_column: str | None = None,
    multi_label: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    empty_texts: str = "keep",
    encoding_errors: str = "strict",
    weights: str = "pretrained",
    trainable: str = "last_block",
    lora: LoRAConfig | dict[str, Any] | None = None,
    pooling: str | None = None,
    causal: bool | None = None,
    padding: str | int = "none",
    head_bias: bool | None = None,
    dropout: float | str = 0.0,
    max_length: int | None = None,
    long_texts: str = "head",
    epochs: int = 5,
    batch_size: int = 8,
    batch_tokens: int | None = None,
    gradient_accumulation_steps: int = 1,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.1,
    layerwise_lr_decay: float = 1.0,
    warmup_ratio: float = 0.0,
    scheduler: str = "constant",
    max_grad_norm: float | None = None,
    class_weights: Any = None,
    label_smoothing: float = 0.0,
    early_stopping: int | None = None,
    calibrate: bool = False,
    dtype: str = "auto",
    device: str = "auto",
    backend: str = "auto",
    seed: int = 123,
    cache: str = "auto",
    cache_budget: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cuda_graphs: bool = True,
    strategy: str = "auto",
    output_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    save_every_steps: int | None = None,
    keep_last: int = 1,
    logs: str | Sequence[str] | None = None,
    callbacks: Callback | Sequence[Callback] | None = None,
    report: bool = False,
    progress: bool = True,
) -> FinetuneResult:
    """Fine-tunes GPT-2, BERT or one of its relatives into a text classifier.

    Parameters
    ----------
    model : str or path
        ``"gpt2"``, ``"gpt2-medium"``, ``"gpt2-large"``, ``"gpt2-xl"``, ``"bert-base-uncased"``, ...; the folder or hub
        id of a Hugging Face GPT-2, BERT, RoBERTa, DistilBERT or ModernBERT; the folder of a LoRA adapter, which
        ``trainable="lora"`` trains on and all else merges into its base first; or ``"gpt2-nano"``, a tiny one without
        pretrained weights. A classification head that was trained on the same classes is kept.
    train
        Name of a data set (``"sms_spam"``, ``"imdb"``, ``"sample"``), path of a CSV, TSV, JSONL or Parquet file,
        DataFrame, ``datasets.Dataset``, or ``(texts, labels)``.
    validation, test
        Likewise; ``validation`` may be a fraction of the training data, taken in the classes' proportions. ``None``
        means the part that a named data set has, ``False`` none at all.
    text_column, label_column : str, optional
        Found by their usual names where not given.
    multi_label : bool
        Whether a text may have several labels, or none: each class is a decision of its own (sigmoid, binary
        cross-entropy). Labels are lists then, or strings in which ``label_separator`` stands between them.
    label_separator : str
        With ``multi_label`` only.
    empty_texts : {"keep", "skip", "error"}
        What becomes of texts that are empty or white space: they are texts as others are, are left out and counted, or
        are refused.
    encoding_errors : {"strict", "replace"}
        Whether bytes of a file that are not UTF-8 are refused, or become U+FFFD, with a warning that counts them.
    weights : {"pretrained", "random"}
    trainable : {"head", "last_block", "last_N_blocks", "all", "lora"}
    lora : LoRAConfig or dict, optional
        With ``trainable="lora"`` only.
    pooling : {"last", "last_position", "first", "mean"}, optional
        Which row is read: the last real token, the last row (padding, if there is any), the first, or the mean.
    causal : bool, optional
        Whether a token sees only what stands before it.
    padding : {"none", "train_longest", "context"} or int
        ``"none"`` computes real tokens only. The others are experiments: texts are padded to the longest training
        text, to the model's positions, or to a number of tokens, and padding tokens are ordinary tokens.
    head_bias : bool, optional
        ``pooling``, ``causal`` and ``head_bias`` default to the architecture's own convention (GPT-2: last real token,
        causal, no bias; BERT: first token through the pooler, bidirectional, bias).
    dropout : float or "config"
        One rate for every site, or the rates of the model's configuration.
    max_length : int, optional
        Tokens that are read of a text; the model's positions by default.
    long_texts : {"head", "tail", "both", "windows"}
        What is read of a text of more than ``max_length`` tokens: its beginning, its end, half of each, or windows of
        so many tokens, each of which shares half with the one before it. In training each window is a text with its
        text's label; a text's logits are the mean over its windows.
    epochs, batch_size, gradient_accumulation_steps : int
        An optimizer step sees ``batch_size * gradient_accumulation_steps`` texts; the last of an epoch may see fewer.
    batch_tokens : int, optional
        Instead of ``batch_size``: as many texts of the shuffled order as have this many tokens together (padding
        included, one text at least).
    learning_rate, weight_decay : float
        Of AdamW; the decay is applied to every trained parameter.
    layerwise_lr_decay : float
        The learning rate of each block is that of the block above it times this; the head, and what stands between it
        and the last block, have ``learning_rate``.
    warmup_ratio : float
        Share of the steps over which the learning rate rises linearly.
    scheduler : {"constant", "linear", "cosine"}
    max_grad_norm : float, optional
        Gradients are scaled down to this norm.
    class_weights : "balanced", mapping of label to weight, or sequence, optional
        Of the texts' losses, in training alone. ``"balanced"``: every class has the same weight in all. With
        ``multi_label`` the weight of having a class against not having it; ``"balanced"`` makes both sides equal.
    label_smoothing : float
        Share of a label that is spread over all classes, in training alone.
    early_stopping : int, optional
        Training ends when validation has not got better for so many epochs (accuracy, then loss), and the classifier is
        that of the best one.
    calibrate : bool
        Whether the logits are divided by the temperature at which the validation texts' log loss is least (Guo et al.
        2017). Predictions stay as they are; the head of the classifier that is returned, and of its checkpoint, has it.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Of the computation; parameters stay in float32. ``"auto"`` is float32 on CPUs and bfloat16 on GPUs that compute
        it.
    device : str
        ``"auto"`` is a CUDA device if there is one.
    backend : {"auto", "reference", "native", "triton"}
        Implementation of the ops.
    seed : int
        Decides new weights, shuffling, dropout and the validation fraction.
    cache : {"auto", "device", "memory", "disk", "off"}
        Where the rows that frozen layers give are kept between epochs, so that these are computed once for each
        distinct text: in the device's memory, in main memory, or in a file. ``"auto"`` takes the first of these that
        holds them all. Nothing is kept where it would change results (dropout in frozen layers) or gain nothing.
    cache_budget : int, optional
        Bytes that are kept at most; by default half of what is free there. Texts that don't fit are computed in each
        epoch.
    cache_dir : path, optional
        Keeps the tokens there, and what ``cache`` puts on disk; later runs on the same texts (and frozen weights) begin
        with them. By default nothing outlives the process.
    cuda_graphs : bool
        On a GPU, whether steps on so few rows that launching their kernels takes longer than running them are recorded
        as CUDA graphs and replayed. Never with dropout, gradient accumulation or float16.
    strategy : {"auto", "ddp", "fsdp"}
        How the processes that torchrun has started share the model: each has all of it (DistributedDataParallel), or a
        part of every parameter, its gradient and its optimizer state (FSDP2; for ``trainable="all"``). ``"auto"`` is
        the latter where all of that would not leave a process a quarter of its free memory. A process alone has all of
        it.
    output_dir : path, optional
        Receives a checkpoint after each epoch; ``last`` and ``best`` in it point at the newest one and at the one with
        the best validation accuracy. On SIGTERM or SIGINT a training that has one finishes its step, saves, and raises
        :class:`PreemptedError`.
    resume : bool
        Whether the training whose checkpoints are in ``output_dir`` is gone on with, from the newest one that is
        complete, to the same bits as if it had never stopped; with nothing there it begins. Data, model and settings
        must be those that it was begun with.
    save_every_steps : int, optional
        A checkpoint after so many optimizer steps, too.
    keep_last : int
        How many of the newest checkpoints are kept, besides the best.
    logs : {"csv", "tensorboard"} or sequence of them, optional
        Figures of each step and epoch, in ``output_dir/logs``.
    callbacks : Callback or sequence of Callback, optional
        Told of each step and epoch; can end the training.
    report : bool
        Whether ``output_dir/report.html`` is written: curves of the training, and the figures of ``pyllmclf-eval
        --report`` on the test texts, or the validation texts where there are no others.
    progress : bool
        Whether a bar and a line per epoch are shown on standard error.

    Returns
    -------
    FinetuneResult

    Raises
    ------
    UsageError, DataError, ModelError, ResourceError, NonFiniteError, PreemptedError
    """
    started = time.perf_counter()
    if train is None:
        raise UsageError("train is missing: give the name of a data set, a file, a DataFrame or (texts, labels).")
    arguments = dict(locals())
    settings = TrainingSettings(
        epochs=epochs,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        gradient_accumulation_steps=gradient_accumulation_steps,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        layerwise_lr_decay=layerwise_lr_decay,
        warmup_ratio=warmup_ratio,
        scheduler=scheduler,
        max_grad_norm=max_grad_norm,
        early_stopping=early_stopping,
        save_every_steps=save_every_steps,
        keep_last=keep_last,
        seed=seed,
    )
    if (resume or save_every_steps is not None or keep_last != 1) and output_dir is None:
        raise UsageError("resume, save_every_steps and keep_last need a folder for checkpoints: give output_dir.")
    if not is_number(label_smoothing) or not 0.0 <= label_smoothing < 1.0:
        raise UsageError(f"label_smoothing={label_smoothing!r} must be a number in [0, 1).")
    check_label_separator(label_separator, several=multi_label)
    if lora is not None and trainable != "lora":
        raise UsageError(f"lora is given, but trainable is {trainable!r}; say trainable='lora'.")
    lora_config = LoRAConfig.coerce(lora) if trainable == "lora" else None
    torch_device = local_device(resolve_device(device))
    torch_dtype = resolve_dtype(dtype, torch_device)
    check_backend(backend, torch_device)
    check_trainable(trainable)
    check_strategy(strategy, trainable)
    check_padding(padding, max_length, long_texts)
    check_pooling(pooling)
    check_dropout(dropout)
    kept_in = None if cache_dir is None else Path(cache_dir)
    check_cache(cache, cache_budget)
    separator = label_separator if multi_label else None
    check_reading(empty_texts, encoding_errors)
    if report and output_dir is None:
        raise UsageError("report needs a folder: give output_dir.")
    if report and multi_label:
        raise UsageError("the report is of classifiers with one label for each text; leave report or multi_label out.")
    told = resolve_callbacks(callbacks, logs, None if output_dir is None else Path(output_dir))
    with ExitStack() as held:
        run = None
        group = held.enter_context(processes(torch_device))
        if not group.is_first:
            progress, told = False, []
        if output_dir is not None and group.is_first:
            run = held.enter_context(RunFolder(Path(output_dir), resume=resume, keep_last=keep_last))
        preemption = held.enter_context(Preemption(enabled=output_dir is not None, alone=group.count == 1))
        preparing = held.enter_context(ExitStack())
        preparing.enter_context(
            preemption.at_once("preempted before training began; resume=True (--resume) begins or goes on with it.")
        )

        train_data, validation_data, test_data, encoder = _read(
            (train, validation, test),
            {"text_column": text_column, "label_column": label_column},
            {"label_separator": separator, "empty_texts": empty_texts, "encoding_errors": encoding_errors},
            seed,
        )
        for name, wanted in (("early_stopping", early_stopping is not None), ("calibrate", calibrate)):
            if wanted and validation_data is None:
                raise UsageError(f"{name} needs validation texts: give validation, as a part or as a fraction.")
        if report and validation_data is None and test_data is None:
            raise UsageError("report needs texts to measure on: give test or validation.")
        labels = encoder.encode(train_data)
        minimised = MultiLabelObjective if multi_label else Objective
        objective = minimised(resolve_class_weights(class_weights, encoder, labels), label_smoothing)
        source = find_model(model, weights)
        if source.adapter is not None and lora_config is not None:
            if lora is not None:
                raise UsageError(f"{source.name} is an adapter, which is trained on as it is; lora can't be given.")
            lora_config = source.adapter.lora
        head = HeadSpec.resolve(source.config, pooling, causal, head_bias)
        rates = _dropout_rates(dropout, source.config, lora_config)

        if kept_in is None:
            store = TokenStore.from_texts(train_data.texts, source.tokenizer)
        else:
            store = TokenStore.cached(kept_in, train_data.texts, source.tokenizer)
        store.check(source.config.vocab_size)
        specials = special_count(source.tokenizer)
        layout = RowLayout.resolve(
            padding,
            max_length,
            long_texts,
            positions=source.config.n_positions,
            longest_train=int(store.lengths.max()) + specials,
            specials=specials,
        )
        pretrained = weights == "pretrained"
        merged = source.adapter is not None and lora_config is None
        state = ClassifierState(
            model=build_model(
                source,
                len(encoder.classes),
                head,
                encoder,
                pretrained=pretrained,
                lora=lora_config is not None,
                seed=seed,
            ),
            tokenizer=source.tokenizer,
            encoder=encoder,
            layout=layout,
            lora=lora_config,
            hub_id=source.hub_id if pretrained and not merged else None,
            revision=source.revision if pretrained and not merged else None,
            settings=_recorded(
                arguments
                | asdict(head)
                | asdict(layout)
                | {
                    "lora": None if lora_config is None else asdict(lora_config),
                    "device": str(torch_device),
                    "dtype": str(torch_dtype).removeprefix("torch."),
                }
            ),
        )
        classifier = Classifier(state, device=str(torch_device), dtype=dtype, backend=backend)
        classifier.group = group
        set_trainable(state.model, trainable, lora_config, torch.Generator().manual_seed(seed))
        if source.adapter is not None and lora_config is not None:
            take_adapter(state.model, source, encoder)
        packer = Packer(store, source.tokenizer, layout, labels)
        parts = {
            name: classifier.packer(data.texts, encoder.encode(data), kept_in)
            for name, data in (("validation", validation_data), ("test", test_data))
            if data is not None
        }
        own = None
        if run is not None or group.count > 1:
            stores = {name: part.store for name, part in {"train": packer, **parts}.items() if name != "test"}
            own = identity(state, train_data, validation_data, stores, objective.class_weight, group.count)
        if group.count > 1:
            assert own is not None
            check_alike(group, state, own, test_data)
        prefix, obstacle = make_prefix(
            state.model,
            [packer, *(parts[name] for name in ("validation",) if name in parts)],  # test texts are read once
            rates,
            epochs,
            cache=cache,
            budget=cache_budget,
            folder=kept_in,
            device=torch_device,
            dtype=torch_dtype,
            backend=backend,
            group=group,
            progress=progress,
        )
        strategy = choose_strategy(strategy, state.model, group, torch_device, torch_dtype)
        saved = None
        if run is not None and run.newest is not None:
            assert own is not None
            best = run.best_of(run.newest) if early_stopping is not None else None
            sums = arithmetic(prefix, strategy, torch_device, backend)
            saved = load_saved(state, run.newest, best, own, sums)
            run.adopt()
        trainer = Trainer(
            state.model,
            packer,
            settings,
            rates=rates,
            device=torch_device,
            dtype=torch_dtype,
            backend=backend,
            objective=objective,
            prefix=prefix,
            cuda_graphs=cuda_graphs,
            callbacks=told,
            preemption=preemption,
            group=group,
            strategy=strategy,
            progress=progress,
        )
        lengths = LengthReport.of(packer, source.tokenizer, train_data.skipped)
        skipped = {
            # Of a fraction they are counted with the training texts.
            name: 0 if name == "validation" and is_number(validation) else data.skipped
            for name, data in (("validation", validation_data), ("test", test_data))
            if data is not None
        }
        _announce(lengths, skipped, progress)
        _announce_prefix(prefix, obstacle, cache, rates, progress)
        if group.count > 1:
            say(f"{group.count} processes, strategy {strategy}", progress)
        if group.any(saved is not None):
            go_on(trainer, state, saved)
        if saved is not None:
            say(f"resumed from {saved.folder}: step {trainer.step}, {len(trainer.history)} epochs done", progress)
        training = PreparedTraining(
            classifier=classifier,
            trainer=trainer,
            parts=parts,
            skipped=skipped,
            run=run,
            identity=own,
            strategy=strategy,
            prepare_seconds=time.perf_counter() - started,
            progress=progress,
        )
        preparing.close()
        try:
            training.fit()
            with preemption.at_once():
                calibration = training.calibrate() if calibrate else None
                training.test()
                if report:
                    training.report(test_data or validation_data)
        except PreemptedError as error:
            raise PreemptedError(
                f"preempted after step {trainer.step}; a checkpoint is in {output_dir}, from which resume=True "
                "(--resume) goes on."
            ) from error
        finally:
            classifier.group = Processes()
        return FinetuneResult(
            classifier,
            trainer.history,
            training.metrics,
            training.timing(),
            None if output_dir is None else Path(output_dir),
            lengths,
            calibration,
        )


def _read(
    given: tuple[Any, Any, Any], columns: dict[str, str | None], reading: dict[str, Any], seed: int
) -> tuple[TextData, TextData | None, TextData | None, LabelEncoder | MultiLabelEncoder]:
    """Texts for training, validation and test, as :func:`read_splits` reads them, and the classes of the first."""
    train, validation, test = read_splits(*given, seed=seed, **columns, **reading)
    if reading["label_separator"] is None:
        return train, validation, test, LabelEncoder.fit(train)
    # A fraction is not taken in the classes' proportions here, and may have all texts of one.
    beside = validation if is_number(given[1]) else None
    return train, validation, test, MultiLabelEncoder.fit(train, reading["label_separator"], beside)


def _announce(lengths: LengthReport, skipped: dict[str, int], progress: bool) -> None:
    """What is read of the texts."""
    say(f"train: {lengths}", progress)
    for name, count in skipped.items():
        if count:
            say(f"{name}: {count:,} empty texts left out", progress)


def _announce_prefix(
    prefix: FrozenPrefix | None, obstacle: str | None, cache: str, rates: DropoutRates, progress: bool
) -> None:
    """What is kept of frozen layers, or why nothing is, where that was asked for or is not plain."""
    if prefix is not None:
        (say if prefix.keeps_all else warn)(str(prefix), progress)
    elif obstacle is not None and cache not in ("auto", "off"):
        warn(f"nothing is kept of frozen layers: {obstacle}", progress)
    elif obstacle is not None and changes_each_epoch(rates):
        say(f"nothing is kept of frozen layers: {obstacle}", progress)


def check_dropout(dropout: float | str) -> None:
    """Raises :class:`UsageError` unless it is a rate or ``"config"``."""
    if dropout != "config" and (not is_number(dropout) or not is_rate(float(dropout))):
        raise UsageError(f"dropout={dropout!r} must be a number in [0, 1 - 2**-32] or 'config'.")


def _dropout_rates(dropout: float | str, config: ModelConfig, lora: LoRAConfig | None) -> DropoutRates:
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


def _recorded(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a run as JSON can hold them, without those that only concern its display."""
    plain = (str, int, float, bool, type(None))

    def shown(value: Any) -> Any:
        if isinstance(value, plain):
            return value
        if isinstance(value, dict):
            return {str(name): shown(entry) for name, entry in value.items()}
        if hasattr(value, "tolist"):  # an array
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [shown(entry) for entry in value]
        return os.fspath(value) if isinstance(value, os.PathLike) else f"<{type(value).__name__}>"

    # Of data a name, a path or a share, and never the texts.
    data = {
        name: value if is_number(value) or isinstance(value, (str, os.PathLike)) else None
        for name, value in arguments.items()
        if name in ("train", "validation", "test")
    }
    return {
        name: shown(value)
        for name, value in (arguments | data).items()
        if name not in ("started", "progress", "callbacks", "logs", "report")
    }
