"""``pyllmclf finetune``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .config import from_file
from .options import (
    Backend,
    Debug,
    Device,
    Dtype,
    EmptyTexts,
    EncodingErrors,
    Json,
    LabelColumn,
    Progress,
    TextColumn,
    print_json,
)
from .tables import print_evaluation, print_seeds


def finetune(
    train: Annotated[str, typer.Option(help="Data set (sms_spam, imdb, sample) or CSV, TSV, JSONL or Parquet file.")],
    model: Annotated[
        str, typer.Option(help="gpt2, gpt2-medium, bert-base-uncased, ..., a model folder or a hub id.")
    ] = "gpt2",
    validation: Annotated[
        str | None, typer.Option(help="Data, a fraction of the training data, or none. Default: the data set's own.")
    ] = None,
    test: Annotated[str | None, typer.Option(help="Data or none. Default: the data set's own.")] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Texts may have several labels, or none.")] = False,
    label_separator: Annotated[str, typer.Option(help="What stands between them.")] = "|",
    empty_texts: EmptyTexts = "keep",
    encoding_errors: EncodingErrors = "strict",
    weights: Annotated[str, typer.Option(help="pretrained or random.")] = "pretrained",
    trainable: Annotated[str, typer.Option(help="head, last_block, last_N_blocks, all or lora.")] = "last_block",
    lora_rank: Annotated[int | None, typer.Option(help="With --trainable lora; default 16.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="Default 16.")] = None,
    lora_dropout: Annotated[float | None, typer.Option(help="Default 0.")] = None,
    lora_target_modules: Annotated[
        str | None, typer.Option(help="all-linear, or names of linear layers, separated by commas.")
    ] = None,
    lora_layers: Annotated[
        str | None, typer.Option(help="Numbers of blocks, separated by commas; default all.")
    ] = None,
    lora_scaling: Annotated[str | None, typer.Option(help="alpha/rank (default) or alpha.")] = None,
    pooling: Annotated[str | None, typer.Option(help="last, last_position, first or mean.")] = None,
    causal: Annotated[bool | None, typer.Option(help="Causal mask; default: the architecture's own.")] = None,
    padding: Annotated[str, typer.Option(help="none, train_longest, context or a number of tokens.")] = "none",
    head_bias: Annotated[bool | None, typer.Option(help="Bias of the head; default: the architecture's own.")] = None,
    dropout: Annotated[str, typer.Option(help="A rate, or config for the model's own rates.")] = "0.0",
    max_length: Annotated[
        int | None, typer.Option(help="Tokens read of a text; default: the model's positions.")
    ] = None,
    long_texts: Annotated[
        str, typer.Option(help="What is read of longer texts: head, tail, both or windows.")
    ] = "head",
    epochs: int = 5,
    batch_size: int = 8,
    batch_tokens: Annotated[int | None, typer.Option(help="Instead: tokens of a batch at most.")] = None,
    gradient_accumulation_steps: int = 1,
    learning_rate: float = 5e-5,
    weight_decay: float = 0.1,
    layerwise_lr_decay: Annotated[
        float, typer.Option(help="Learning rate of a block: that of the one above it, times this.")
    ] = 1.0,
    warmup_ratio: float = 0.0,
    scheduler: Annotated[str, typer.Option(help="constant, linear or cosine.")] = "constant",
    max_grad_norm: Annotated[float | None, typer.Option(help="Clip gradients to this norm.")] = None,
    class_weights: Annotated[
        str | None, typer.Option(help="balanced, or a weight for each class: spam=2,ham=1.")
    ] = None,
    label_smoothing: Annotated[float, typer.Option(help="Share of a label that is spread over all classes.")] = 0.0,
    early_stopping: Annotated[
        int | None, typer.Option(help="End after so many epochs without better validation; keep the best.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Scale probabilities to fit the validation texts.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
    backend: Backend = "auto",
    seed: int = 123,
    seeds: Annotated[
        int | None, typer.Option(help="Train so often, with --seed and the numbers after it; print mean and spread.")
    ] = None,
    cache: Annotated[
        str, typer.Option(help="What frozen layers give, kept between epochs: auto, device, memory, disk or off.")
    ] = "auto",
    cache_budget: Annotated[int | None, typer.Option(help="Bytes at most; default: half of what is free.")] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Keep tokens, and what --cache puts on disk, for later runs.")
    ] = None,
    cuda_graphs: Annotated[bool, typer.Option(help="On a GPU, replay short steps as CUDA graphs.")] = True,
    strategy: Annotated[
        str, typer.Option(help="Of several processes: ddp, fsdp (parts of the model) or auto.")
    ] = "auto",
    output_dir: Annotated[Path | None, typer.Option(help="Folder for checkpoints.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in OUTPUT_DIR.")] = False,
    save_every_steps: Annotated[int | None, typer.Option(help="A checkpoint after so many steps, too.")] = None,
    keep_last: Annotated[int, typer.Option(help="Newest checkpoints that are kept, besides the best.")] = 1,
    logs: Annotated[
        str | None,
        typer.Option(help="Figures of steps and epochs in OUTPUT_DIR/logs: csv, tensorboard or both."),
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Write OUTPUT_DIR/report.html.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=from_file,
            is_eager=True,
            help="TOML file with any of these options; the command line counts first.",
        ),
    ] = None,
    progress: Progress = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a model into a classifier."""
    lora = _lora(
        rank=lora_rank,
        alpha=lora_alpha,
        dropout=lora_dropout,
        target_modules=None if lora_target_modules is None else _listed(lora_target_modules),
        layers=None if lora_layers is None else _numbers(lora_layers),
        scaling=lora_scaling,
    )
    arguments: dict[str, Any] = dict(  # noqa: C408 - as the call that it is
        validation=_part(validation, fraction=True),
        test=_part(test, fraction=False),
        text_column=text_column,
        label_column=label_column,
        multi_label=multi_label,
        label_separator=label_separator,
        empty_texts=empty_texts,
        encoding_errors=encoding_errors,
        weights=weights,
        trainable=trainable,
        lora=lora,
        pooling=pooling,
        causal=causal,
        padding=int(padding) if re.fullmatch("[0-9]+", padding) else padding,
        head_bias=head_bias,
        dropout=dropout if dropout == "config" else _number("--dropout", dropout),
        max_length=max_length,
        long_texts=long_texts,
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
        class_weights=_class_weights(class_weights),
        label_smoothing=label_smoothing,
        early_stopping=early_stopping,
        calibrate=calibrate,
        dtype=dtype,
        device=device,
        backend=backend,
        seed=seed,
        cache=cache,
        cache_budget=cache_budget,
        cache_dir=cache_dir,
        cuda_graphs=cuda_graphs,
        strategy=strategy,
        output_dir=output_dir,
        resume=resume,
        save_every_steps=save_every_steps,
        keep_last=keep_last,
        logs=None if logs is None else [name.strip() for name in logs.split(",")],
        report=report,
        progress=progress,
    )
    speaks = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    if seeds is not None:
        from ..seeds import finetune_seeds

        found = finetune_seeds(model, train, seeds=seeds, **arguments)
        if not speaks:
            return
        if as_json:
            print_json(found.to_dict())
        else:
            print_seeds(found.summary, found.seeds)
        return
    from ..api import finetune as run

    result = run(model, train, **arguments)
    if not speaks:
        return
    if as_json:
        print_json(result.to_dict())
        return
    for name, metrics in result.metrics.items():
        print_evaluation(metrics, title=name)
    if (fitted := result.calibration) is not None:
        loss = f"log loss {fitted['log_loss_before']:.4f} -> {fitted['log_loss_after']:.4f}"
        error = f"calibration error {fitted['ece_before']:.2%} -> {fitted['ece_after']:.2%}"
        print(f"temperature {fitted['temperature']:.3f}; on the validation texts {loss}, {error}")
    timing = result.timing
    print(
        f"trained {timing['steps']:.0f} steps in {timing['train_seconds']:.1f} s: "
        f"{timing['tokens_per_second']:,.0f} tokens/s"
    )
    if result.output_dir is not None:
        print(f"checkpoints in {result.output_dir}")


def _lora(**given: Any) -> dict[str, Any] | None:
    chosen = {name: value for name, value in given.items() if value is not None}
    return chosen or None


def _listed(value: str) -> str | tuple[str, ...]:
    return value if value == "all-linear" else tuple(name.strip() for name in value.split(","))


def _numbers(value: str) -> tuple[int, ...]:
    numbers = [number.strip() for number in value.split(",")]
    for number in numbers:
        if not re.fullmatch("[0-9]+", number):
            raise UsageError(f"--lora-layers: {number!r} is not the number of a block.")
    return tuple(map(int, numbers))


def _class_weights(value: str | None) -> str | dict[str, float] | None:
    if value is None or "=" not in value:
        return value
    weights = {}
    for part in value.split(","):
        label, equals, weight = part.strip().rpartition("=")
        if not equals or not label:
            raise UsageError(f"--class-weights: {part!r} is not a class and its weight, as spam=2.")
        weights[label] = _number("--class-weights", weight)
    return weights


def _number(option: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UsageError(f"{option}: {value!r} is not a number.") from error


def _part(value: str | None, *, fraction: bool) -> Any:
    if value == "none":
        return False
    if fraction and value is not None:
        try:
            return float(value)
        except ValueError:
            return value
    return value
