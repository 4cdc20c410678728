"""``finetune``: from data and a model's name to a classifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

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
)
from .lora_config import LoRAConfig
from .settings import LABEL_SEPARATOR, Settings
from .training.callbacks import Callback
from .training.prepare import prepare
from .training.run import FinetuneResult

__all__ = ["FinetuneResult", "finetune"]


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
    empty_texts: EmptyTexts = "keep",
    encoding_errors: EncodingErrors = "strict",
    weights: Weights = "pretrained",
    trainable: str = "last_block",
    lora: LoRAConfig | dict[str, Any] | None = None,
    pooling: Pooling | None = None,
    causal: bool | None = None,
    padding: Literal["none", "train_longest", "context"] | int = "none",
    head_bias: bool | None = None,
    dropout: float | Literal["config"] = 0.0,
    max_length: int | None = None,
    long_texts: LongTexts = "head",
    epochs: int = 5,
    batch_size: int = 8,
    batch_tokens: int | None = None,
    gradient_accumulation_steps: int = 1,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.1,
    layerwise_lr_decay: float = 1.0,
    warmup_ratio: float = 0.0,
    scheduler: Scheduler = "constant",
    max_grad_norm: float | None = None,
    class_weights: Any = None,
    label_smoothing: float = 0.0,
    early_stopping: int | None = None,
    calibrate: bool = False,
    dtype: Dtype = "auto",
    device: str = "auto",
    backend: Backend = "auto",
    seed: int = 123,
    cache: Cache = "auto",
    cache_budget: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cuda_graphs: bool = True,
    strategy: Strategy = "auto",
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
    with prepare(Settings(**locals())) as run:
        return run.execute()
