"""``load`` opens a classifier's folder, ``evaluate`` measures a classifier on labelled texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..paths import user_path
from ..random_state import keeps_random_state
from ..suggestions import checked_names
from ..torch_state import own_torch_state
from .checkpoint import load_checkpoint
from .classifier import Classifier
from .swapped import check_checkpoint_and_data
from .third_party import is_third_party, load_third_party


@keeps_random_state()
@checked_names
@own_torch_state()
def load(
    path: str | os.PathLike[str], *, device: str = "auto", dtype: str = "auto", backend: str = "auto"
) -> Classifier:
    """Opens a checkpoint, the newest one in the folder of a run, or a classifier of another library.

    Parameters
    ----------
    path : path
        A folder that this library wrote, or that ``save_pretrained`` of transformers' or PEFT's sequence classifiers
        wrote.
    device : str
        ``"auto"`` is the first CUDA device if there is one, else the CPU.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Dtype of the computation; ``"auto"`` is bfloat16 on CUDA devices that compute it, else float32.
    backend : {"auto", "reference", "native", "triton"}
        Implementation of the ops.

    Returns
    -------
    Classifier

    Raises
    ------
    ModelError
        If there is no complete, undamaged checkpoint.
    UsageError
        If an argument is unknown.
    ResourceError
        If the device is unavailable.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"path={path!r} must be the folder of a classifier.")
    folder = Path(user_path(path))
    state = load_third_party(folder) if is_third_party(folder) else load_checkpoint(folder)
    return Classifier(state, device=device, dtype=dtype, backend=backend)


@checked_names
def evaluate(
    checkpoint: str | os.PathLike[str] | Classifier,
    data: Any,
    *,
    split: str | None = None,
    text_column: str | int | Sequence[str | int] | None = None,
    label_column: str | int | None = None,
    empty_texts: str = "keep",
    encoding_errors: str = "strict",
    missing: str = "error",
    encoding: str = "auto",
    delimiter: str | None = None,
    header: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    progress: bool = False,
) -> EvaluationResult | MultiLabelResult:
    """Metrics of a checkpoint on labelled data.

    Parameters
    ----------
    checkpoint : path or Classifier
        A :class:`Classifier` has its device, dtype and backend already.
    data, split, text_column, label_column, empty_texts, encoding_errors, missing, encoding, delimiter, header, progress
        As for :meth:`Classifier.evaluate`.
    device, dtype, backend : str
        As for :func:`load`.

    Returns
    -------
    EvaluationResult, or MultiLabelResult where texts may have several labels

    Raises
    ------
    UsageError
        If device, dtype or backend is chosen for a :class:`Classifier`.
    ModelError
        If there is no complete, undamaged checkpoint.
    DataError
        If the data can't be read, or a label is not one of the classes.
    """
    if isinstance(checkpoint, Classifier):
        if (device, dtype, backend) != ("auto", "auto", "auto"):
            raise UsageError("device, dtype and backend are chosen when a classifier is loaded; pass them to load().")
    else:
        check_checkpoint_and_data(checkpoint, data)
        checkpoint = load(checkpoint, device=device, dtype=dtype, backend=backend)
    return checkpoint.evaluate(
        data,
        split=split,
        text_column=text_column,
        label_column=label_column,
        empty_texts=empty_texts,
        encoding_errors=encoding_errors,
        missing=missing,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        progress=progress,
    )
