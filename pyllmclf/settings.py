"""The arguments of a training, each declared once.

A field of :class:`Settings` is an argument of :func:`pyllmclf.finetune`, with its type and default;
:func:`pyllmclf.arguments.argument` adds the check, the help text, the option's parser, whether a resumed run must have
the same value, and whether checkpoints and the model card show it. The command line, the TOML reader, resume and the
records of checkpoints are generated from here; a test compares the signatures of ``finetune`` and ``LLMClassifier``
with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from . import argument_checks as valid
from .argument_checks import AUTO, all_of, auto_or, one_of, optional, satisfies
from .arguments import (
    Argument,
    argument,
    arguments_of,
    as_class_weights,
    as_count_or_auto,
    as_count_or_word,
    as_data,
    as_data_or_fraction,
    as_number_or_word,
    as_prompt,
    as_words,
)
from .checks import as_json, is_number, plain
from .choices import (
    Auto,
    Backend,
    Baselines,
    Cache,
    Dtype,
    EmptyTexts,
    EncodingErrors,
    LongTexts,
    Loss,
    Missing,
    Padding,
    PairTruncation,
    Pooling,
    Scheduler,
    Strategy,
    Weights,
    listed,
    words,
)
from .errors import UsageError
from .file_types import DATA_HELP
from .lora_config import LoRAConfig
from .paths import user_path

LABEL_SEPARATOR = "|"
DATA, MODEL, TRAINING, MACHINE, OUTPUT = "Data", "Model", "Training", "Machine", "Output"
# Arguments that are, or may be, paths: ~ in them is the home folder.
PATHS = ("model", "train", "validation", "test", "cache_dir", "output_dir")
# Arguments that only optimizer steps have.
OF_STEPS = (
    "epochs", "batch_size", "batch_tokens", "gradient_accumulation_steps", "learning_rate", "weight_decay",
    "layerwise_lr_decay", "warmup_ratio", "scheduler", "max_grad_norm", "label_smoothing", "early_stopping",
)  # fmt: skip
# Arguments that a contrastive loss does not have: pairs are those of one batch of texts with one label each.
OF_CROSS_ENTROPY = (
    "multi_label", "class_weights", "label_smoothing", "early_stopping", "gradient_accumulation_steps",
)  # fmt: skip
CROSS_ENTROPY, CONTRASTIVE = words(Loss)
# Arguments that a search has no use for: its trainings are many, and of fixed length.
NOT_OF_TUNE = ("early_stopping", "calibrate", "logs", "callbacks", "save_every_steps", "baselines", "refit")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All arguments of a training, checked; :func:`pyllmclf.finetune` documents them.

    Raises
    ------
    UsageError
        If a value is invalid for every model and data set, or values exclude each other.
    """

    model: str | os.PathLike[str] = argument(
        "gpt2", "minilm, gpt2, gpt2-medium, bert-base-uncased, ..., a model folder or a hub id.", group=MODEL,
        changes_result=False,
    )  # fmt: skip
    train: Any = argument(
        None, DATA_HELP, group=DATA, estimator=False,
        changes_result=False,
    )  # fmt: skip
    validation: Any = argument(
        None, "Data, a fraction of the training data, or none. Default: the data set's own, or a tenth on automatic "
        "settings.", group=DATA, estimator=False, parse=as_data_or_fraction, changes_result=False,
    )  # fmt: skip
    test: Any = argument(
        None, "Data or none. Default: the data set's own.", group=DATA, estimator=False, parse=as_data,
        changes_result=False,
    )  # fmt: skip
    text_column: str | int | Sequence[str | int] | None = argument(
        None, "Column of the texts, by name or number; several are joined: title,body. Default: found.", group=DATA,
        estimator=False, check=valid.columns, changes_result=False,
    )  # fmt: skip
    text_pair_column: str | int | None = argument(
        None, "Column of the second texts, for pairs of texts, by name or number. Default: none, unless only the usual "
        "names of a pair tell the texts.", group=DATA, estimator=False, check=valid.column, changes_result=False,
    )  # fmt: skip
    label_column: str | int | None = argument(
        None, "Column of the labels, by name or number. Default: found.", group=DATA, estimator=False,
        check=valid.column, changes_result=False,
    )  # fmt: skip
    multi_label: bool = argument(False, "Texts may have several labels, or none.", group=DATA, estimator=False)
    label_separator: str = argument(
        LABEL_SEPARATOR, "String between the labels of a text, with --multi-label.", group=DATA, estimator=False,
        check=valid.separator, changes_result=False,
    )  # fmt: skip
    empty_texts: EmptyTexts = argument(
        "keep", "Texts that are empty or white space: keep, skip or error.", group=DATA, estimator=False,
        check=one_of(words(EmptyTexts)), changes_result=False,
    )  # fmt: skip
    encoding_errors: EncodingErrors = argument(
        "strict", "Bytes of a file that its encoding lacks: strict (an error) or replace.", group=DATA, estimator=False,
        check=one_of(words(EncodingErrors)), changes_result=False,
    )  # fmt: skip
    missing: Missing = argument(
        "error", "Rows whose text or label is missing: error or skip.", group=DATA, estimator=False,
        check=one_of(words(Missing)), changes_result=False,
    )  # fmt: skip
    encoding: str = argument(
        "auto", "Encoding of files of text, such as utf-16 or cp1252; default: found.", group=DATA, estimator=False,
        check=valid.encoding, changes_result=False,
    )  # fmt: skip
    delimiter: str | None = argument(
        None, "Character between fields, or comma, semicolon, tab or pipe; default: found.", group=DATA,
        estimator=False, check=valid.delimiter, changes_result=False,
    )  # fmt: skip
    header: bool = argument(
        True, "The first row names the columns; without it, their names are 0, 1, 2, ...", group=DATA,
        estimator=False, check=satisfies(lambda v: isinstance(v, bool), "be True or False"), changes_result=False,
    )  # fmt: skip
    weights: Weights = argument("pretrained", "pretrained or random.", group=MODEL)
    revision: str | None = argument(
        None, "Branch, tag or commit of a model from the hub, as MODEL@REVISION; default: its main branch.",
        group=MODEL, check=optional(valid.revision), changes_result=False,
    )  # fmt: skip
    trainable: str = argument(
        AUTO, "auto, head, last_block, last_N_blocks, all or lora.", group=MODEL, check=auto_or(valid.trainable),
        on_card=True, resolved=True, absent="last_block",
    )  # fmt: skip
    lora: LoRAConfig | dict[str, Any] | None = argument(
        None, "Low-rank adaptation, with trainable lora.", group=MODEL, option=False
    )
    pooling: Pooling | Auto | None = argument(
        AUTO, f"{listed(Pooling)}; auto: the sentence-transformers folder's own, otherwise the architecture's.",
        group=MODEL, check=optional(one_of((*words(Pooling), AUTO))), resolved=True,
    )  # fmt: skip
    causal: bool | None = argument(
        None, "Causal mask; default: the architecture's own.", group=MODEL, check=valid.bool_or_none, resolved=True
    )
    padding: Padding | int = argument(
        "none", "none, train_longest, context or a number of tokens.", group=MODEL, parse=as_count_or_word,
        check=valid.padding,
    )  # fmt: skip
    head_bias: bool | None = argument(
        None, "Bias of the head; default: the architecture's own.", group=MODEL, check=valid.bool_or_none
    )
    dropout: float | Literal["config", "auto"] = argument(
        AUTO, "A rate, config for the model's own rates, or auto.", group=MODEL, parse=as_number_or_word,
        check=auto_or(valid.rate_or_config), on_card=True, resolved=True, absent=0.0,
    )  # fmt: skip
    max_length: int | None = argument(
        None, "Tokens read of a text; default: the model's positions.", group=MODEL, resolved=True,
        check=optional(valid.integer),
    )  # fmt: skip
    long_texts: LongTexts = argument(
        "head", "What is read of longer texts: head, tail, both or windows.", group=MODEL,
        check=one_of(words(LongTexts)),
    )  # fmt: skip
    pair_truncation: PairTruncation = argument(
        "longest_first", "Which text of a pair that is too long loses tokens: longest_first or only_second.",
        group=MODEL, check=one_of(words(PairTruncation)), absent="longest_first",
    )  # fmt: skip
    prompt: str | None = argument(
        AUTO, "String before each text, such as 'query: '; none, or auto: the one that the model was trained with.",
        group=MODEL, parse=as_prompt, check=optional(valid.unicode_text), resolved=True, on_card=True, absent="",
    )  # fmt: skip
    epochs: int | Auto = argument(
        AUTO, "Passes over the training texts, or auto.", group=TRAINING, parse=as_count_or_auto, on_card=True,
        check=auto_or(valid.positive_integer), resolved=True, absent=5,
    )  # fmt: skip
    batch_size: int | Auto = argument(
        AUTO, "Texts per batch, or auto.", group=TRAINING, parse=as_count_or_auto, on_card=True,
        check=auto_or(valid.positive_integer), resolved=True, absent=8,
    )  # fmt: skip
    batch_tokens: int | None = argument(
        None, "Most tokens per batch, instead of --batch-size.", group=TRAINING, check=optional(valid.positive_integer)
    )
    gradient_accumulation_steps: int = argument(
        1, "Batches per optimizer step.", group=TRAINING, check=valid.positive_integer, on_card=True
    )
    learning_rate: float | Auto = argument(
        AUTO, "Learning rate of AdamW, or auto; auto with trainable head and epochs auto: solved without steps.",
        group=TRAINING, parse=as_number_or_word, check=auto_or(valid.finite_positive_number), on_card=True,
        resolved=True, absent=5e-5,
    )  # fmt: skip
    loss: Loss | Auto = argument(
        AUTO, "What steps minimise: cross_entropy, contrastive (texts of a class become alike; then the head is "
        "solved) or auto.", group=TRAINING, check=one_of((*words(Loss), AUTO)), on_card=True, resolved=True,
        absent=CROSS_ENTROPY,
    )  # fmt: skip
    weight_decay: float = argument(
        0.1, "Weight decay of AdamW, on every trained parameter.", group=TRAINING, on_card=True,
        check=valid.finite_nonnegative_number,
    )  # fmt: skip
    layerwise_lr_decay: float = argument(
        1.0, "Factor of the learning rate from each block to the one below it.", group=TRAINING,
        check=all_of(valid.number, satisfies(lambda v: 0.0 < v <= 1.0, "be above 0 and at most 1")),
    )  # fmt: skip
    warmup_ratio: float | Auto = argument(
        AUTO, "Share of the steps over which the learning rate rises, or auto.", group=TRAINING,
        parse=as_number_or_word, resolved=True, on_card=True, absent=0.0,
        check=auto_or(all_of(valid.number, satisfies(lambda v: 0.0 <= v <= 1.0, "be between 0 and 1"))),
    )  # fmt: skip
    scheduler: Scheduler | Auto = argument(
        AUTO, "constant, linear, cosine or auto.", group=TRAINING, check=one_of((*words(Scheduler), AUTO)),
        on_card=True, resolved=True, absent="constant",
    )  # fmt: skip
    max_grad_norm: float | None = argument(
        None, "Clip gradients to this norm.", group=TRAINING, check=optional(valid.positive_number)
    )
    class_weights: Any = argument(
        None, "balanced, or a weight for each class: spam=2,ham=1.", group=TRAINING, parse=as_class_weights,
        on_card=True,
    )  # fmt: skip
    sample_weight: Any = argument(
        None, "Column with a weight for each training text.", group=TRAINING, estimator=False,
        check=valid.sample_weight, changes_result=False, on_card=True,
    )  # fmt: skip
    label_smoothing: float = argument(
        0.0, "Share of a label that is spread over all classes.", group=TRAINING, on_card=True,
        check=satisfies(lambda v: is_number(v) and 0.0 <= v < 1.0, "be a number in [0, 1)"),
    )  # fmt: skip
    early_stopping: int | None = argument(
        None, "Stop after this many epochs without better validation; keep the best epoch.", group=TRAINING,
        check=optional(valid.positive_integer),
    )  # fmt: skip
    baselines: Baselines = argument(
        "auto", "Whether automatic settings are compared with simple classifiers on the validation texts: auto or off.",
        group=TRAINING, estimator=False, check=one_of(words(Baselines)), changes_result=False, recorded=False,
    )  # fmt: skip
    refit: bool = argument(
        True, "Where validation texts are held out by default: train the final classifier on all texts.",
        group=TRAINING, estimator=False, changes_result=False, recorded=False,
    )  # fmt: skip
    calibrate: bool = argument(False, "Scale probabilities to fit the validation texts.", group=TRAINING)
    dtype: Dtype = argument(
        "auto", "Dtype of the matmuls: auto, float32, bfloat16 or float16.", group=MACHINE, resolved=True
    )
    device: str = argument("auto", "auto, cpu, cuda or cuda:N.", group=MACHINE)
    backend: Backend = argument("auto", "Implementation of the ops: auto, reference, native or triton.", group=MACHINE)
    seed: int = argument(
        123, "Seed of new weights, shuffling, dropout and the validation fraction.", group=TRAINING,
        check=valid.seed_number, on_card=True,
    )  # fmt: skip
    cache: Cache = argument(
        "auto", "Where activations of frozen layers are cached between epochs: auto, device, memory, disk or off.",
        group=MACHINE, check=one_of(words(Cache)), changes_result=False, same_in_processes=True,
    )  # fmt: skip
    cache_budget: int | None = argument(
        None, "Most bytes of the cache; default: half of what is free.", group=MACHINE, check=valid.byte_count,
        changes_result=False,
    )  # fmt: skip
    cache_dir: str | os.PathLike[str] | None = argument(
        None, "Keep tokens, and activations cached on disk, in this folder for later runs.", group=MACHINE,
        changes_result=False,
    )  # fmt: skip
    cuda_graphs: bool = argument(True, "On a GPU, replay short steps as CUDA graphs.", group=MACHINE)
    strategy: Strategy = argument(
        "auto", "How processes share a model: ddp, fsdp (shards) or auto.", group=MACHINE,
        check=one_of(words(Strategy)), changes_result=False, same_in_processes=True,
    )  # fmt: skip
    output_dir: str | os.PathLike[str] | None = argument(
        None, "Folder for checkpoints.", group=OUTPUT, changes_result=False
    )
    overwrite: bool = argument(
        False, "Replace the earlier run or classifier in OUTPUT_DIR.", group=OUTPUT, changes_result=False,
        recorded=False,
    )  # fmt: skip
    resume: bool = argument(
        False, "Resume the training in OUTPUT_DIR.", group=OUTPUT, estimator=False, changes_result=False
    )
    save_every_steps: int | None = argument(
        None, "Also save a checkpoint every so many steps.", group=OUTPUT, estimator=False,
        check=optional(valid.positive_integer), changes_result=False, same_in_processes=True,
    )  # fmt: skip
    keep_last: int = argument(
        1, "How many of the newest checkpoints are kept, besides the best.", group=OUTPUT, estimator=False,
        check=valid.positive_integer, changes_result=False,
    )  # fmt: skip
    logs: str | Sequence[str] | None = argument(
        None, "Log metrics of steps and epochs to OUTPUT_DIR/logs: csv, tensorboard or both.", group=OUTPUT,
        parse=as_words, recorded=False,
    )  # fmt: skip
    callbacks: Any = argument(
        None, "Callbacks that observe steps and epochs.", group=OUTPUT, option=False, recorded=False
    )
    report: bool = argument(False, "Write OUTPUT_DIR/report.html.", group=OUTPUT, recorded=False)
    progress: bool = argument(True, "Show progress on standard error.", group=OUTPUT, recorded=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, plain(getattr(self, each.name)))
        for name in PATHS:
            object.__setattr__(self, name, user_path(getattr(self, name)))
        for name in ARGUMENTS:
            check_argument(name, getattr(self, name))
        if self.prompt is None:  # None would leave the choice to a resumed run's checkpoint
            object.__setattr__(self, "prompt", "")
        self._check_together()

    def _check_together(self) -> None:
        """Raises :class:`UsageError` for values that exclude each other."""
        valid.fraction_if_number("validation", self.validation)
        if self.output_dir is not None and not os.fspath(self.output_dir):
            raise UsageError("output_dir is empty; name a folder, such as '.' for the current one.")
        if self.overwrite and self.output_dir is None:
            raise UsageError(
                "overwrite is about an earlier run in output_dir: give output_dir, or leave overwrite out."
            )
        if self.overwrite and self.resume:
            raise UsageError("overwrite replaces the earlier run that resume continues; leave one of them out.")
        if (self.resume or self.save_every_steps is not None or self.keep_last != 1) and self.output_dir is None:
            raise UsageError("resume, save_every_steps and keep_last need a folder for checkpoints: give output_dir.")
        check_label_separator(self.label_separator, several=self.multi_label)
        if self.lora is not None and self.trainable != "lora":
            raise UsageError(f"lora needs trainable='lora', not {self.trainable!r}; set that, or leave lora out.")
        if self.trainable == "lora":
            LoRAConfig.coerce(self.lora)
        if self.strategy == "fsdp" and self.trainable != "all":
            raise UsageError(
                f"strategy='fsdp' needs trainable='all', not {self.trainable!r}: with few trained layers "
                "gradients and optimizer state, which it shards, are small; leave strategy out."
            )
        if self.loss == CONTRASTIVE:
            self._check_contrastive()
        if self.cache_budget is not None and self.cache == "off":
            raise UsageError("cache_budget has no effect with cache='off'; leave one of them out.")
        if self.report and self.output_dir is None:
            raise UsageError("report needs a folder: give output_dir.")

    def _check_contrastive(self) -> None:
        defaults = {each.name: each.default for each in fields(Settings)}
        for name in OF_CROSS_ENTROPY:
            value, default = getattr(self, name), defaults[name]
            if value is not default and not (is_number(value) and value == default):
                raise UsageError(f"loss='contrastive' has no {name}: leave it at {default!r}, or leave loss out.")
        if self.trainable == "head":
            raise UsageError("loss='contrastive' changes what the head reads: it needs another trainable than 'head'.")

    @property
    def asks_for_steps(self) -> bool:
        """Whether an argument is given that only optimizer steps have."""
        observed = self.save_every_steps is not None or self.logs is not None or self.callbacks is not None
        return observed or self.changes_steps

    @property
    def changes_steps(self) -> bool:
        """Whether an argument is given that changes what optimizer steps compute."""
        defaults = {each.name: each.default for each in fields(Settings)}
        no_dropout = self.dropout in (AUTO, 0.0)
        return not no_dropout or any(getattr(self, name) != defaults[name] for name in OF_STEPS)

    @property
    def separator(self) -> str | None:
        """String between the labels of a text; ``None`` where each text has one label."""
        return self.label_separator if self.multi_label else None

    @property
    def lora_config(self) -> LoRAConfig | None:
        """Settings of the low-rank layers; ``None`` where none are trained."""
        return LoRAConfig.coerce(self.lora) if self.trainable == "lora" else None


def check_label_separator(separator: str, *, several: bool) -> None:
    """Raises :class:`UsageError` for a blank separator, or another than the default where texts have one label each."""
    check_argument("label_separator", separator)
    if separator != LABEL_SEPARATOR and not several:
        raise UsageError(
            "label_separator applies only to texts with several labels; say multi_label=True, or leave it out."
        )


ARGUMENTS: dict[str, Argument] = arguments_of(Settings)


def check_argument(name: str, value: Any) -> None:
    """Raises :class:`UsageError` if the value of an argument is invalid for every model and data set."""
    if (check := ARGUMENTS[name].check) is not None:
        check(name, value)


def with_recorded(settings: Settings, recorded: Mapping[str, Any]) -> Settings:
    """Settings of a resumed run: those left at ``None`` or ``"auto"`` take the values that the checkpoint records.

    Without a record there is nothing to take; a checkpoint of a version without the argument has its ``absent`` value.
    """
    if not recorded:
        return settings
    left = [
        name for name, declared in ARGUMENTS.items() if declared.resolved and getattr(settings, name) in (None, AUTO)
    ]
    values = {name: recorded.get(name, ARGUMENTS[name].absent) for name in left}
    return replace(settings, **{name: value for name, value in values.items() if value is not None})


def recorded_settings(settings: Settings, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a checkpoint records, as types that JSON has.

    Of data it records a name, a path or a fraction; of the texts' weights, whether there are any.

    Parameters
    ----------
    settings : Settings
    resolved : mapping
        Values that the run has resolved, by name; they replace those of ``settings``.
    """
    values = {name: getattr(settings, name) for name, declared in ARGUMENTS.items() if declared.recorded}
    for name in ("train", "validation", "test"):
        if not is_number(values[name]) and not isinstance(values[name], (str, os.PathLike)):
            values[name] = None
    values["sample_weight"] = None if values["sample_weight"] is None else True  # a run's identity has the weights
    return {name: as_json(value) for name, value in (values | dict(resolved)).items()}
