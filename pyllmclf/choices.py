"""Values of the arguments that take one of a few words, as ``Literal`` types; :func:`words` lists them for checks."""

from __future__ import annotations

from typing import Any, Literal, get_args

Auto = Literal["auto"]
EmptyTexts = Literal["keep", "skip", "error"]
EncodingErrors = Literal["strict", "replace"]
Missing = Literal["error", "skip"]
Weights = Literal["pretrained", "random"]
Pooling = Literal["last", "last_position", "first", "mean"]
Padding = Literal["none", "train_longest", "context"]  # or a number of tokens
LongTexts = Literal["head", "tail", "both", "windows"]
PairTruncation = Literal["longest_first", "only_second"]
Loss = Literal["cross_entropy", "contrastive"]
Scheduler = Literal["constant", "linear", "cosine"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Backend = Literal["auto", "reference", "native", "triton"]
Cache = Literal["auto", "device", "memory", "disk", "off"]
Baselines = Literal["auto", "off"]
Strategy = Literal["auto", "ddp", "fsdp"]
Log = Literal["csv", "tensorboard"]
LoRAScaling = Literal["alpha/rank", "alpha"]
# Names of the characters between the fields of delimited files.
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|", "\\t": "\t"}
ExportFormat = Literal["huggingface", "peft", "onnx", "torch"]


def listed(choice: Any) -> str:
    """The words of one of the types above, as a sentence lists them."""
    *others, last = words(choice)
    return f"{', '.join(others)} or {last}"


def words(choice: Any) -> tuple[str, ...]:
    """Lists the values of a ``Literal`` type, in their order."""
    return get_args(choice)
