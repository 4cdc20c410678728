"""Suggestions for names that don't exist: close ones, and what other libraries call an argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from .errors import UnknownArgumentError

P = ParamSpec("P")
R = TypeVar("R")

# Names that other libraries and habits have for an argument.
_OTHER_NAMES = {
    "model": "model_name model_name_or_path model_id pretrained_model_name_or_path checkpoint base_model",
    "train": "data dataset train_data train_dataset train_file training_data data_path",
    "validation": "val valid dev eval_data eval_dataset val_data validation_data validation_file validation_split",
    "test": "test_data test_dataset test_file",
    "text_column": "text_col text_field text_key x_column input_column",
    "text_pair_column": "pair_column text_pair pair_col second_column second_text_column text_b",
    "label_column": "label_col target_column target_col label_field label_key y_column labels_column",
    "lora": "lora_config peft peft_config lora_r",
    "causal": "is_causal causal_mask",
    "dropout": "dropout_rate hidden_dropout_prob",
    "max_length": "max_len max_seq_length max_seq_len max_tokens context_length sequence_length",
    "epochs": "num_epochs n_epochs num_train_epochs max_epochs epoch",
    "batch_size": "batch bs per_device_train_batch_size train_batch_size",
    "gradient_accumulation_steps": "grad_accum accumulate accumulate_grad_batches gradient_accumulation accum_steps",
    "learning_rate": "lr eta learn_rate",
    "weight_decay": "wd",
    "layerwise_lr_decay": "llrd layer_decay lr_decay",
    "warmup_ratio": "warmup warmup_steps warmup_proportion",
    "scheduler": "lr_scheduler lr_scheduler_type lr_schedule",
    "max_grad_norm": "clip clip_grad clip_grad_norm grad_clip gradient_clip_val gradient_clipping",
    "class_weights": "class_weight",
    "early_stopping": "patience early_stopping_patience",
    "dtype": "precision torch_dtype fp16 bf16",
    "device": "device_map accelerator gpu",
    "seed": "random_state random_seed",
    "random_state": "seed random_seed",
    "output_dir": "output out out_dir save_dir save_path save_to output_path",
    "resume": "resume_from_checkpoint",
    "save_every_steps": "save_steps",
    "keep_last": "save_total_limit",
    "logs": "log logger report_to logging",
    "callbacks": "callback",
    "progress": "verbose progress_bar show_progress tqdm",
}
OTHER_NAMES: dict[str, tuple[str, ...]] = {name: tuple(others.split()) for name, others in _OTHER_NAMES.items()}


def closest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``, whatever the case of letters; ``None`` if none is alike."""
    from difflib import get_close_matches

    by_folded = {each.casefold(): each for each in known}
    matches = get_close_matches(str(name).casefold(), by_folded, n=1, cutoff=0.65)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``" (did you mean 'NAME'?)"`` before the full stop of a sentence, or nothing if no known name is alike."""
    match = closest(name, known)
    return "" if match is None or match == name else f" (did you mean {match!r}?)"


def meant(name: str, known: Iterable[str]) -> str | None:
    """The known argument that ``name`` stands for in other libraries, or that is most like it; ``None`` if none is."""
    known = list(known)
    folded = name.casefold().replace("-", "_")
    synonym = next((each for each in known if folded in OTHER_NAMES.get(each, ())), None)
    return synonym or closest(folded, known)


def checked_names(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function name the argument that an unknown keyword stands for; its signature stays the same.

    Raises
    ------
    UnknownArgumentError
        By the function, for a keyword that it doesn't have; it is a :class:`TypeError`, as Python's own, too.
    """
    parameters = inspect.signature(function).parameters
    names = [name for name in parameters if name != "self"]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in parameters:
                raise UnknownArgumentError(unknown_argument(function.__qualname__, name, names, kwargs))
        return function(*args, **kwargs)

    return call


def unknown_argument(function: str, name: str, names: Iterable[str], others: Mapping[str, object]) -> str:
    """Sentence about an unknown keyword ``name`` of a function with the arguments ``names``, called with ``others``."""
    match = meant(name, names)
    function = function.removesuffix(".__init__")
    if match is None:
        return f"{function}() has no argument {name}; help(pyllmclf.{function}) lists them."
    already = ", which the call has, too" if match in others else ""
    return f"{function}() has no argument {name}; {match} is meant{already}."
