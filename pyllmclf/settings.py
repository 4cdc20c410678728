"""The arguments of a training, each declared once.

A field of :class:`Settings` is an argument of :func:`pyllmclf.finetune`: its type, its default, and by
:func:`pyllmclf.arguments.argument` its check, its help text, how the command line's text is read, whether a run must be
resumed with the same value, and whether checkpoints and the model card show it. The command line, the TOML reader,
resuming and the records of a checkpoint follow from here; a test holds the signatures of ``finetune`` and
``LLMClassifier`` against it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from .arguments import (
    Argument,
    all_of,
    argument,
    arguments_of,
    as_class_weights,
    as_count_or_word,
    as_data,
    as_data_or_fraction,
    as_rate_or_word,
    as_words,
    one_of,
    optional,
    satisfies,
)
from .checks import is_number, is_rate, plain
from .choices import (
    Backend,
    Cache,
    Dtype,
    EmptyTexts,
    EncodingErrors,
    LongTexts,
    Pooling,
    Scheduler,
    Strategy,
    Weights,
    words,
)
from .errors import UsageError
from .lora_config import LoRAConfig

LABEL_SEPARATOR = "|"
LAST_BLOCKS = re.compile(r"last_([0-9]+)_blocks")
PADDINGS = ("none", "train_longest", "context")
DATA, MODEL, TRAINING, MACHINE, OUTPUT = "Data", "Model", "Training", "Machine", "Output"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_trainable(name: str, value: Any) -> None:
    if value not in ("head", "last_block", "all", "lora") and not LAST_BLOCKS.fullmatch(str(value)):
        raise UsageError(
            f"trainable={value!r} is unknown; it is 'head', 'last_block', 'last_N_blocks' (N a number), "
            "'all' or 'lora'."
        )


def _check_padding(name: str, value: Any) -> None:
    if value not in PADDINGS and type(value) is not int:
        raise UsageError(f"padding={value!r} is unknown; it is {', '.join(map(repr, PADDINGS))} or a number.")


def _check_budget(name: str, value: Any) -> None:
    if value is not None and (not _is_whole(value) or value < 0):
        raise UsageError(f"cache_budget={value!r} must be a number of bytes.")


count = satisfies(lambda value: _is_whole(value) and value >= 1, "be a positive integer")
number = satisfies(is_number, "be a number")
truth = satisfies(lambda value: isinstance(value, (bool, type(None))), "be True, False or None")
separator = satisfies(lambda value: isinstance(value, str) and bool(value.strip()), "be a string that is not blank")
seed_number = satisfies(lambda value: _is_whole(value) and 0 <= value < 2**32, "be an integer from 0 to 2**32 - 1")
rate_or_config = satisfies(
    lambda value: value == "config" or (is_number(value) and is_rate(float(value))),
    "be a number in [0, 1 - 2**-32] or 'config'",
)


def _positive(value: Any) -> bool:
    return math.isfinite(value) and value > 0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All arguments of a training, checked; :func:`pyllmclf.finetune` documents them.

    Raises
    ------
    UsageError
        For a value that no training could take, or values that exclude each other.
    """

    model: str | os.PathLike[str] = argument(
        "gpt2", "gpt2, gpt2-medium, bert-base-uncased, ..., a model folder or a hub id.", group=MODEL,
        changes_result=False,
    )  # fmt: skip
    train: Any = argument(
        None, "Data set (sms_spam, imdb, sample) or CSV, TSV, JSONL or Parquet file.", group=DATA, estimator=False,
        changes_result=False,
    )  # fmt: skip
    validation: Any = argument(
        None, "Data, a fraction of the training data, or none. Default: the data set's own.", group=DATA,
        estimator=False, parse=as_data_or_fraction, changes_result=False,
    )  # fmt: skip
    test: Any = argument(
        None, "Data or none. Default: the data set's own.", group=DATA, estimator=False, parse=as_data,
        changes_result=False,
    )  # fmt: skip
    text_column: str | None = argument(
        None, "Column with the texts; found by its usual names if not given.", group=DATA, estimator=False,
        changes_result=False,
    )  # fmt: skip
    label_column: str | None = argument(
        None, "Column with the labels; found likewise.", group=DATA, estimator=False, changes_result=False
    )
    multi_label: bool = argument(False, "Texts may have several labels, or none.", group=DATA, estimator=False)
    label_separator: str = argument(
        LABEL_SEPARATOR, "What stands between them.", group=DATA, estimator=False, check=separator,
        changes_result=False,
    )  # fmt: skip
    empty_texts: EmptyTexts = argument(
        "keep", "Texts that are empty or white space: keep, skip or error.", group=DATA, estimator=False,
        check=one_of(words(EmptyTexts)), changes_result=False,
    )  # fmt: skip
    encoding_errors: EncodingErrors = argument(
        "strict", "Bytes of a file that are not UTF-8: strict (an error) or replace.", group=DATA, estimator=False,
        check=one_of(words(EncodingErrors)), changes_result=False,
    )  # fmt: skip
    weights: Weights = argument("pretrained", "pretrained or random.", group=MODEL)
    trainable: str = argument(
        "last_block", "head, last_block, last_N_blocks, all or lora.", group=MODEL, check=_check_trainable,
        on_card=True,
    )  # fmt: skip
    lora: LoRAConfig | dict[str, Any] | None = argument(
        None, "Low-rank adaptation, with trainable lora.", group=MODEL, option=False
    )
    pooling: Pooling | None = argument(
        None, "last, last_position, first or mean.", group=MODEL, check=optional(one_of(words(Pooling))), resolved=True
    )
    causal: bool | None = argument(
        None, "Causal mask; default: the architecture's own.", group=MODEL, check=truth, resolved=True
    )
    padding: Literal["none", "train_longest", "context"] | int = argument(
        "none", "none, train_longest, context or a number of tokens.", group=MODEL, parse=as_count_or_word,
        check=_check_padding,
    )  # fmt: skip
    head_bias: bool | None = argument(
        None, "Bias of the head; default: the architecture's own.", group=MODEL, check=truth
    )
    dropout: float | Literal["config"] = argument(
        0.0, "A rate, or config for the model's own rates.", group=MODEL, parse=as_rate_or_word, check=rate_or_config,
        on_card=True,
    )  # fmt: skip
    max_length: int | None = argument(
        None, "Tokens read of a text; default: the model's positions.", group=MODEL, resolved=True,
        check=optional(satisfies(lambda value: type(value) is int, "be an integer")),
    )  # fmt: skip
    long_texts: LongTexts = argument(
        "head", "What is read of longer texts: head, tail, both or windows.", group=MODEL,
        check=one_of(words(LongTexts)),
    )  # fmt: skip
    epochs: int = argument(5, "Passes over the training texts.", group=TRAINING, check=count, on_card=True)
    batch_size: int = argument(8, "Texts of a batch.", group=TRAINING, check=count, on_card=True)
    batch_tokens: int | None = argument(
        None, "Instead: tokens of a batch at most.", group=TRAINING, check=optional(count)
    )
    gradient_accumulation_steps: int = argument(
        1, "Batches of an optimizer step.", group=TRAINING, check=count, on_card=True
    )
    learning_rate: float = argument(
        5e-5, "Of AdamW.", group=TRAINING, check=all_of(number, satisfies(_positive, "be positive")), on_card=True
    )
    weight_decay: float = argument(
        0.1, "Of AdamW, on every trained parameter.", group=TRAINING, on_card=True,
        check=all_of(number, satisfies(lambda v: math.isfinite(v) and v >= 0, "not be negative")),
    )  # fmt: skip
    layerwise_lr_decay: float = argument(
        1.0, "Learning rate of a block: that of the one above it, times this.", group=TRAINING,
        check=all_of(number, satisfies(lambda v: 0.0 < v <= 1.0, "lie above 0, and at 1 at most")),
    )  # fmt: skip
    warmup_ratio: float = argument(
        0.0, "Share of the steps in which the learning rate rises.", group=TRAINING,
        check=all_of(number, satisfies(lambda v: 0.0 <= v <= 1.0, "lie between 0 and 1")),
    )  # fmt: skip
    scheduler: Scheduler = argument(
        "constant", "constant, linear or cosine.", group=TRAINING, check=one_of(words(Scheduler)), on_card=True
    )
    max_grad_norm: float | None = argument(
        None, "Clip gradients to this norm.", group=TRAINING,
        check=optional(all_of(number, satisfies(lambda v: v > 0, "be positive"))),
    )  # fmt: skip
    class_weights: Any = argument(
        None, "balanced, or a weight for each class: spam=2,ham=1.", group=TRAINING, parse=as_class_weights,
        on_card=True,
    )  # fmt: skip
    label_smoothing: float = argument(
        0.0, "Share of a label that is spread over all classes.", group=TRAINING, on_card=True,
        check=satisfies(lambda v: is_number(v) and 0.0 <= v < 1.0, "be a number in [0, 1)"),
    )  # fmt: skip
    early_stopping: int | None = argument(
        None, "End after so many epochs without better validation; keep the best.", group=TRAINING,
        check=optional(count),
    )  # fmt: skip
    calibrate: bool = argument(False, "Scale probabilities to fit the validation texts.", group=TRAINING)
    dtype: Dtype = argument("auto", "Of the matmuls: auto, float32, bfloat16 or float16.", group=MACHINE, resolved=True)
    device: str = argument("auto", "auto, cpu, cuda or cuda:N.", group=MACHINE)
    backend: Backend = argument("auto", "Implementation of the ops: auto, reference, native or triton.", group=MACHINE)
    seed: int = argument(
        123, "Of new weights, shuffling, dropout and the validation fraction.", group=TRAINING, check=seed_number,
        on_card=True,
    )  # fmt: skip
    cache: Cache = argument(
        "auto", "Where activations of frozen layers are kept between epochs: auto, device, memory, disk or off.",
        group=MACHINE, check=one_of(words(Cache)), changes_result=False, same_in_processes=True,
    )  # fmt: skip
    cache_budget: int | None = argument(
        None, "Bytes at most; default: half of what is free.", group=MACHINE, check=_check_budget,
        changes_result=False,
    )  # fmt: skip
    cache_dir: str | os.PathLike[str] | None = argument(
        None, "Keep tokens, and what --cache puts on disk, for later runs.", group=MACHINE, changes_result=False
    )
    cuda_graphs: bool = argument(True, "On a GPU, replay short steps as CUDA graphs.", group=MACHINE)
    strategy: Strategy = argument(
        "auto", "Of several processes: ddp, fsdp (parts of the model) or auto.", group=MACHINE,
        check=one_of(words(Strategy)), changes_result=False, same_in_processes=True,
    )  # fmt: skip
    output_dir: str | os.PathLike[str] | None = argument(
        None, "Folder for checkpoints.", group=OUTPUT, changes_result=False
    )
    resume: bool = argument(
        False, "Resume the training in OUTPUT_DIR.", group=OUTPUT, estimator=False, changes_result=False
    )
    save_every_steps: int | None = argument(
        None, "A checkpoint after so many steps, too.", group=OUTPUT, estimator=False, check=optional(count),
        changes_result=False, same_in_processes=True,
    )  # fmt: skip
    keep_last: int = argument(
        1, "Newest checkpoints that are kept, besides the best.", group=OUTPUT, estimator=False, check=count,
        changes_result=False,
    )  # fmt: skip
    logs: str | Sequence[str] | None = argument(
        None, "Figures of steps and epochs in OUTPUT_DIR/logs: csv, tensorboard or both.", group=OUTPUT,
        parse=as_words, recorded=False,
    )  # fmt: skip
    callbacks: Any = argument(None, "Observers of steps and epochs.", group=OUTPUT, option=False, recorded=False)
    report: bool = argument(False, "Write OUTPUT_DIR/report.html.", group=OUTPUT, recorded=False)
    progress: bool = argument(True, "Show progress on standard error.", group=OUTPUT, recorded=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            object.__setattr__(self, each.name, plain(getattr(self, each.name)))
        for name in ARGUMENTS:
            check_argument(name, getattr(self, name))
        self._check_together()

    def _check_together(self) -> None:
        """Raises :class:`UsageError` for values that exclude each other."""
        if (self.resume or self.save_every_steps is not None or self.keep_last != 1) and self.output_dir is None:
            raise UsageError("resume, save_every_steps and keep_last need a folder for checkpoints: give output_dir.")
        check_label_separator(self.label_separator, several=self.multi_label)
        if self.lora is not None and self.trainable != "lora":
            raise UsageError(f"lora is given, but trainable is {self.trainable!r}; say trainable='lora'.")
        if self.trainable == "lora":
            LoRAConfig.coerce(self.lora)
        if self.strategy == "fsdp" and self.trainable != "all":
            raise UsageError(
                f"strategy='fsdp' is for trainable='all', not {self.trainable!r}: where few layers are trained, "
                "gradients and the optimizer's state, which it shares out, are small."
            )
        if self.cache_budget is not None and self.cache == "off":
            raise UsageError("cache_budget is given, but cache is 'off'.")
        if self.report and self.output_dir is None:
            raise UsageError("report needs a folder: give output_dir.")
        if self.report and self.multi_label:
            raise UsageError(
                "the report is of classifiers with one label for each text; leave report or multi_label out."
            )

    @property
    def separator(self) -> str | None:
        """What stands between the labels of a text; ``None`` where each text has one label."""
        return self.label_separator if self.multi_label else None

    @property
    def lora_config(self) -> LoRAConfig | None:
        """How low-rank layers are added; ``None`` where none are trained."""
        return LoRAConfig.coerce(self.lora) if self.trainable == "lora" else None


def check_label_separator(separator: str, *, several: bool) -> None:
    """Raises :class:`UsageError` for a separator that can stand between no labels, or that separates nothing."""
    check_argument("label_separator", separator)
    if separator != LABEL_SEPARATOR and not several:
        raise UsageError(
            "label_separator applies only to texts with several labels; say multi_label=True, or leave it out."
        )


ARGUMENTS: dict[str, Argument] = arguments_of(Settings)


def check_argument(name: str, value: Any) -> None:
    """Raises :class:`UsageError` for a value of one argument that no training could take."""
    if (check := ARGUMENTS[name].check) is not None:
        check(name, value)


def with_recorded(settings: Settings, recorded: Mapping[str, Any]) -> Settings:
    """The settings of a resumed run: what is left to the run has the value that its checkpoint records."""
    chosen = {
        name: recorded[name]
        for name, declared in ARGUMENTS.items()
        if declared.resolved and getattr(settings, name) in (None, "auto") and recorded.get(name) is not None
    }
    return replace(settings, **chosen)


def recorded_settings(settings: Settings, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a checkpoint holds, as JSON can hold them: of data a name, a path or a fraction, no texts.

    Parameters
    ----------
    settings : Settings
    resolved : mapping
        The values that the run has chosen where the settings leave them open.
    """
    values = {name: getattr(settings, name) for name, declared in ARGUMENTS.items() if declared.recorded}
    for name in ("train", "validation", "test"):
        if not is_number(values[name]) and not isinstance(values[name], (str, os.PathLike)):
            values[name] = None
    return {name: as_json(value) for name, value in (values | dict(resolved)).items()}


def as_json(value: Any) -> Any:
    """A value as JSON can hold it; of an object that it can't, the name of its type."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if isinstance(value, dict):
        return {str(name): as_json(entry) for name, entry in value.items()}
    if hasattr(value, "tolist"):  # an array
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else f"<{type(value).__name__}>"
