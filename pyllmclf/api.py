"""``finetune``: trains a classifier from a model's name and data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

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
)
from .lora_config import LoRAConfig
from .settings import LABEL_SEPARATOR, Settings
from .suggestions import checked_names
from .training.automatic import train as train_classifier
from .training.callbacks import Callback
from .training.result import FinetuneResult

__all__ = ["FinetuneResult", "finetune"]


@checked_names
def finetune(
    model: str | os.PathLike[str] = "gpt2",
    train: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    text_column: str | int | Sequence[str | int] | None = None,
    text_pair_column: str | int | None = None,
    label_column: str | int | None = None,
    multi_label: bool = False,
    label_separator: str = LABEL_SEPARATOR,
    empty_texts: EmptyTexts = "keep",
    encoding_errors: EncodingErrors = "strict",
    missing: Missing = "error",
    encoding: str = "auto",
    delimiter: str | None = None,
    header: bool = True,
    weights: Weights = "pretrained",
    revision: str | None = None,
    trainable: str = "auto",
    lora: LoRAConfig | dict[str, Any] | None = None,
    pooling: Pooling | Auto | None = "auto",
    causal: bool | None = None,
    padding: Padding | int = "none",
    head_bias: bool | None = None,
    dropout: float | Literal["config", "auto"] = "auto",
    max_length: int | None = None,
    long_texts: LongTexts = "head",
    pair_truncation: PairTruncation = "longest_first",
    prompt: str | None = "auto",
    epochs: int | Auto = "auto",
    batch_size: int | Auto = "auto",
    batch_tokens: int | None = None,
    gradient_accumulation_steps: int = 1,
    learning_rate: float | Auto = "auto",
    loss: Loss | Auto = "auto",
    weight_decay: float = 0.1,
    layerwise_lr_decay: float = 1.0,
    warmup_ratio: float | Auto = "auto",
    scheduler: Scheduler | Auto = "auto",
    max_grad_norm: float | None = None,
    class_weights: Any = None,
    sample_weight: Any = None,
    label_smoothing: float = 0.0,
    early_stopping: int | None = None,
    baselines: Baselines = "auto",
    refit: bool = True,
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
    overwrite: bool = False,
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
        id of a Hugging Face GPT-2, Llama, Qwen2, Qwen3, Gemma 3 (text), BERT, RoBERTa, DistilBERT, ModernBERT,
        XLM-RoBERTa, CamemBERT, ELECTRA, MPNet, ALBERT, DeBERTa-v2 or v3; the folder of a LoRA adapter, which
        ``trainable="lora"`` trains further and every other value merges into its base model first; or ``"gpt2-nano"``,
        a tiny model without pretrained weights. A classification head that was trained on the same classes is reused.
    train
        Name of a data set (``"sms_spam"``, ``"imdb"``, ``"sample"``), path of a file or folder, DataFrame,
        ``pyarrow.Table``, ``datasets.Dataset``, list of dictionaries, dictionary of columns, ``(texts, labels)``, or
        ``(texts, pairs, labels)`` for pairs of texts.
    validation, test
        As ``train``; ``validation`` may also be a fraction of the training data, drawn in the classes' proportions.
        ``None`` means the split of the data set, if it has one; ``False`` means none. Where there are no validation
        texts and ``trainable`` or ``epochs`` is automatic, a tenth of the training texts is held out: see ``refit``.
    text_column, label_column : str or int, optional
        Columns by name, or by number from 0; several text columns, as a list or ``"title,body"``, are joined with a
        space. By default they are found by their usual names, or as the one column of texts and the one of labels.
    text_pair_column : str or int, optional
        Column of the second texts, which makes each text a pair that is classified as one, such as a premise and a
        hypothesis. By default texts are single, unless the names of two columns are those of a pair (``sentence1`` and
        ``sentence2``, ``premise`` and ``hypothesis``, ``question`` and ``passage``, ...) and no other column is named
        like a text.
    multi_label : bool
        Whether a text may have several labels, or none. Each class is then decided on its own (sigmoid, binary
        cross-entropy), and labels are lists, or strings joined by ``label_separator``.
    label_separator : str
        String between the labels of a text; with ``multi_label`` only.
    empty_texts : {"keep", "skip", "error"}
        How texts that are empty or white space are handled: as any other text, left out and counted, or as an error.
    encoding_errors : {"strict", "replace"}
        Whether bytes of a file that its encoding lacks raise an error, or become U+FFFD with a warning that counts
        them.
    encoding : str
        Encoding of files of text: a codec of Python such as ``"utf-16"`` or ``"cp1252"``. ``"auto"`` finds UTF-8,
        UTF-16 and UTF-32, and takes other Western texts for cp1252.
    delimiter : str, optional
        Character between the fields of delimited files, or its name: ``"comma"``, ``"semicolon"``, ``"tab"``,
        ``"pipe"``. By default it is found.
    header : bool
        Whether the first row of a delimited file names the columns; if not, their names are 0, 1, 2, ...
    missing : {"error", "skip"}
        Whether rows whose text or label is missing raise an error, or are left out and counted.
    weights : {"pretrained", "random"}
        Initial weights of the model.
    revision : str, optional
        Branch, tag or commit of a model from the hub, also written ``model="name@revision"``; its main branch by
        default. Checkpoints record the commit, and a resumed run stays on it.
    trainable : {"auto", "head", "last_block", "last_N_blocks", "all", "lora"}
        Trained parameters: the head; the last block or the last N blocks, with all layers after them; all parameters;
        or low-rank additions and the head. ``"auto"`` is all of them where that is a matter of minutes, fewer blocks
        otherwise, and the head for few texts of many classes; see :mod:`pyllmclf.training.recipes`. The head alone is
        solved to its optimum, with the L2 penalty by cross-validation, unless an argument that only optimizer steps
        have is given.
    lora : LoRAConfig or dict, optional
        Settings of the low-rank additions; with ``trainable="lora"`` only.
    pooling : {"auto", "last", "last_position", "first", "mean"}, optional
        The row that the head reads: of the last real token, of the last position (of padding, if there is any), of the
        first token, or the mean over all rows. ``"auto"`` is a sentence-transformers model's own, without BERT's
        pooler, and otherwise the architecture's convention, as ``None``.
    causal : bool, optional
        Whether a token attends only to itself and to tokens before it.
    padding : {"none", "train_longest", "context"} or int
        ``"none"`` computes real tokens only. The others are experiments: texts are padded to the longest training
        text, to the model's positions, or to a number of tokens, and padding tokens are ordinary tokens.
    head_bias : bool, optional
        Whether the head has a bias. ``pooling``, ``causal`` and ``head_bias`` default to the architecture's convention
        (GPT-2: last real token, causal, no bias; BERT: first token through the pooler, bidirectional, bias).
    dropout : float, "config" or "auto"
        One rate for every site, or the rates of the model's configuration; ``"auto"`` is 0.
    max_length : int, optional
        Most tokens read of a text; by default a sentence-transformers model's own number, otherwise the model's
        positions.
    long_texts : {"head", "tail", "both", "windows"}
        Tokens read of a text longer than ``max_length``: its first ones, its last ones, half of each, or windows of
        ``max_length`` tokens that overlap by half. In training each window is a text with the label of its text; a
        text's logits are the mean over its windows.
    pair_truncation : {"longest_first", "only_second"}
        Which text of a pair of more than ``max_length`` tokens loses some: the longer one, until both are equally long,
        as transformers does it; or the second alone, unless the first fills all room. ``long_texts`` says which of a
        text's tokens stay; with ``"windows"`` those of the second text slide over it, and the first text is in each,
        of which half is for the first text where both are long, whichever is truncated.
    prompt : str, optional
        String before each text, and each window of one, in training and in all predictions; its tokens count among
        those of ``max_length``. ``"auto"`` is the one that the model was trained to read: a preset's, such as
        ``"query: "`` of ``"e5-small-v2"``, or sentence-transformers' default prompt of the folder; without one there
        is none, as with ``None``.
    epochs, batch_size, gradient_accumulation_steps : int
        An optimizer step computes ``batch_size * gradient_accumulation_steps`` texts; the last of an epoch may have
        fewer. ``"auto"`` is as many epochs as give 100 steps, at least 3 and at most 40, and 8 texts; with the
        contrastive loss 10 steps and at least one epoch, and four texts of each class, at least 16 and at most 64.
    batch_tokens : int, optional
        Instead of ``batch_size``: a batch takes texts in the shuffled order up to this many tokens (padding included),
        and at least one text.
    learning_rate, weight_decay : float
        Settings of AdamW; the decay is applied to every trained parameter. A learning rate of ``"auto"`` depends on
        what is trained and on the model's width: 1e-4 for all layers of a width of 384.
    loss : {"auto", "cross_entropy", "contrastive"}
        What steps minimise: the cross-entropy of the head's logits; or, in each batch, the squared errors of the
        cosines of all pairs of texts, 1 for one class and 0 for two, after which the head is solved (few texts of few
        classes, on a model that embeds texts). ``"auto"``: the latter on up to 24 texts of each of 2 to 15 classes, in
        one process, where the model comes from sentence-transformers and no argument is given that changes the steps.
    layerwise_lr_decay : float
        Factor of the learning rate from each block to the one below it; the head, and the layers between it and the
        last block, have ``learning_rate``.
    warmup_ratio : float
        Share of the steps over which the learning rate rises linearly; ``"auto"`` is 0.1.
    scheduler : {"auto", "constant", "linear", "cosine"}
        Learning rate after the warm-up: constant, or falling to 0 linearly (``"auto"``) or as half a cosine.
    max_grad_norm : float, optional
        Gradients are clipped to this norm.
    class_weights : "balanced", mapping of label to weight, or sequence, optional
        Weights of the texts' losses by class, in training only. ``"balanced"`` gives every class the same total weight.
        With ``multi_label``, the weight of having a class against not having it; ``"balanced"`` makes both sides equal.
    sample_weight : str or sequence of float, optional
        A weight for each text of ``train``, in its order and not negative: an array, or the name of a column. The loss
        of a step is the weighted mean of its texts' losses; where there are class weights too, a text has the product.
        A text of weight 0 is left out of the training. Metrics, those of early stopping too, weigh all texts alike.
    label_smoothing : float
        Share of a label that is spread over all classes, in training only.
    early_stopping : int, optional
        Training stops after this many epochs without better validation (accuracy, then loss); the classifier has the
        weights of the best epoch.
    baselines : {"auto", "off"}
        Whether a training that leaves ``trainable``, ``learning_rate`` or ``epochs`` to the rule is compared with three
        simple classifiers on its validation texts: the majority class, logistic regression on a bag of words, and the
        solved head of the frozen model. One that is better by more than chance (McNemar 1947, p < 0.05) is a warning; a
        head that is better is trained instead where ``trainable`` is left to the rule.
    refit : bool
        Where validation texts are held out by default: whether the classifier is trained on all texts after the
        training without them is measured on them.
    calibrate : bool
        Whether the logits are divided by the temperature that minimises the log loss of the validation texts (Guo et
        al. 2017). Predictions stay the same; the head of the returned classifier and of its checkpoint is rescaled.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Dtype of the computation; parameters stay in float32. ``"auto"`` is bfloat16 on GPUs whose tensor cores multiply
        it and on CPUs that multiply it faster than float32 (AMD from Zen 4 on), else float32. On a CPU only the
        operands of the blocks' matmuls and of attention are rounded to bfloat16.
    device : str
        ``"auto"`` is a CUDA device if there is one, else the CPU.
    backend : {"auto", "reference", "native", "triton"}
        Implementation of the ops.
    seed : int
        Seed of new weights, shuffling, dropout and the validation fraction.
    cache : {"auto", "device", "memory", "disk", "off"}
        Where the frozen layers' activations are cached between epochs, computed once per distinct text: in the device's
        memory, in main memory, or in a file. ``"auto"`` takes the first of these that holds them all. Nothing is cached
        where that would change results (dropout in frozen layers) or save nothing.
    cache_budget : int, optional
        Most bytes of the cache; by default half of what is free there. Texts that don't fit are recomputed in each
        epoch.
    cache_dir : path, optional
        Folder in which tokens, and activations cached on disk, are kept for later runs on the same texts (and frozen
        weights). By default nothing outlives the process.
    cuda_graphs : bool
        Whether a GPU replays steps as CUDA graphs, where they have so few rows that launching their kernels takes
        longer than running them. Never with dropout, gradient accumulation or float16.
    strategy : {"auto", "ddp", "fsdp"}
        How the processes that torchrun starts share the model: each has all of it (DistributedDataParallel), or a shard
        of every parameter, its gradient and its optimizer state (FSDP2; for ``trainable="all"``). ``"auto"`` is
        ``"fsdp"`` where these would take more than three quarters of a process's free memory. A single process always
        has the whole model.
    output_dir : path, optional
        Folder for a checkpoint after each epoch; ``last`` and ``best`` in it point at the newest checkpoint and at the
        one with the best validation accuracy. On SIGTERM or SIGINT a training with an ``output_dir`` finishes its step,
        saves a checkpoint, and raises :class:`PreemptedError`.
    overwrite : bool
        Whether an earlier run or classifier in ``output_dir`` is replaced, at once, when the first checkpoint is
        complete; never a folder with other files. By default such a folder is refused.
    resume : bool
        Resume from the newest complete checkpoint in ``output_dir``, bit for bit; start afresh if there is none. Data,
        model and settings must be those of the checkpoint.
    save_every_steps : int, optional
        Also save a checkpoint every so many optimizer steps.
    keep_last : int
        How many of the newest checkpoints are kept, besides the best.
    logs : {"csv", "tensorboard"} or sequence of them, optional
        Log metrics of each step and epoch to ``output_dir/logs``.
    callbacks : Callback or sequence of Callback, optional
        Observers of each step and epoch; they can stop the training.
    report : bool
        Whether ``output_dir/report.html`` is written: curves of the training, and the metrics of ``pyllmclf-eval
        --report`` on the test texts, or on the validation texts where there is no test split.
    progress : bool
        Whether standard error shows a progress bar and a line per epoch.

    Returns
    -------
    FinetuneResult

    Raises
    ------
    UsageError
        If an argument is invalid, or arguments exclude each other.
    DataError
        If data can't be read, or don't fit the settings.
    ModelError
        If the model or a checkpoint is missing, damaged or unsupported.
    ResourceError
        If memory, disk space, a device or another process is unavailable.
    NonFiniteError
        If a loss, gradient or parameter is not finite.
    PreemptedError
        If a signal ends the training.
    """
    return train_classifier(Settings(**locals()))
