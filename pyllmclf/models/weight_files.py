"""Files of weights: safetensors, one or several by an index; their names, sizes and tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.json_text import parse_json
from ..errors import ModelError, ResourceError
from ..memory import physical_memory
from .architectures.registry import architecture_of
from .config import ModelConfig

# The pages of a file that was read count as this process's memory until it is closed: it is opened again after so many.
MAPPED_BYTES = 1 << 24
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# Dtypes of weights; 8-bit scales (float8_e8m0fnu) and packed 4-bit numbers are no weights.
DTYPES = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
)


def read_safetensors(folder: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields name and tensor from the safetensors files of a model folder; pickled weights are never opened.

    Parameters
    ----------
    folder : Path
    prefix : str
        Only tensors whose names begin with it are read.

    Raises
    ------
    ModelError
        If there is no safetensors file, or one is damaged.
    """
    for name in weight_files(folder):
        with _open_safetensors(folder / name) as file:
            keys = [key for key in file.keys() if key.startswith(prefix)]  # noqa: SIM118 - not a dict
        while keys:
            mapped = 0
            with _open_safetensors(folder / name) as file:
                while keys and mapped < MAPPED_BYTES:
                    key = keys.pop(0)
                    tensor = file.get_tensor(key)
                    mapped += tensor.nbytes
                    yield key, tensor


@contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path}: damaged or unreadable ({error}).") from error


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files of a model folder: one file, or the shards that an index names.

    Raises
    ------
    ModelError
        If there is no such file.
    """
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    if (folder / WEIGHTS_INDEX).is_file():
        return shard_names(folder / WEIGHTS_INDEX)
    pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt*"))
    how = conversion(str(folder), folder / "config.json")
    hint = f" ({pickled[0]} is a pickle file, which is never opened; {how})" if pickled else ""
    raise ModelError(f"{folder}: there is no {WEIGHTS_FILE}{hint}.")


def conversion(name: str, config: Path | None) -> str:
    """How to convert a model's pickles to safetensors, as a clause for a message.

    Parameters
    ----------
    name : str
        Folder or hub id.
    config : Path or None
        Its ``config.json``, which says whether it is a classifier.
    """
    raw: Any = None
    with suppress(OSError, ValueError):
        raw = parse_json(config.read_text(encoding="utf-8")) if config is not None else None
    names = raw.get("architectures") if isinstance(raw, dict) else None
    is_classifier = isinstance(names, list) and any("ForSequenceClassification" in str(each) for each in names)
    cls = "AutoModelForSequenceClassification" if is_classifier else "AutoModel"
    return (
        'convert it if you trust its author: python -c "import transformers as t; [c.from_pretrained('
        f"{name!r}).save_pretrained('converted') for c in (t.{cls}, t.AutoTokenizer)]\" writes the folder 'converted'"
    )


def check_size(config: ModelConfig, folder: Path | None) -> None:
    """Checks the size of a model before memory is allocated for it.

    Parameters
    ----------
    config : ModelConfig
    folder : Path or None
        Folder with the weights, if they are to be loaded; only the headers of its files are read.

    Raises
    ------
    ModelError
        If the files hold fewer weights than the configuration needs.
    ResourceError
        If the parameters in fp32 exceed the machine's memory.
    """
    least = architecture_of(config).least_parameters(config)
    if folder is not None:
        count = 0
        for name in weight_files(folder):
            with _open_safetensors(folder / name) as file:
                count += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        if count < least:
            raise ModelError(
                f"{folder}: parameters are missing; the configuration needs at least {least:,}, the weights hold "
                f"{count:,}."
            )
    if 4 * least > (physical := physical_memory()):
        raise ResourceError(
            f"a model of {least:,} parameters takes {4 * least // 10**9:,} GB; this machine has {physical // 10**9:,}."
        )


def shard_names(index: Path) -> list[str]:
    """Names of the files in a weight index (``model.safetensors.index.json``), sorted.

    Raises
    ------
    ModelError
        If the index is malformed or names a file outside its folder.
    """
    try:
        names = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not a weight index ({error!r}).") from error
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelError(f"{index}: not a weight index.")
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{index}: names a file outside the folder.")
    return sorted(names)


def check_dtype(name: str, value: Tensor, origin: Path) -> None:
    """Raises :class:`ModelError` unless a tensor holds numbers that fp32 can hold: 64 to 8 bits, with a sign."""
    if value.dtype not in DTYPES:
        raise ModelError(
            f"{origin}: {name} has the dtype {value.dtype}, not a floating-point one that is read "
            f"({', '.join(str(dtype).removeprefix('torch.') for dtype in DTYPES)})."
        )
