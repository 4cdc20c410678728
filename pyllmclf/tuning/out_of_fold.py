"""The out-of-fold probabilities of a search's winner, in a file of the run's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..classifier.replaceable import OUT_OF_FOLD_FILE
from ..data.atomic_folder import new_path
from ..errors import ModelError, UsageError

if TYPE_CHECKING:
    import pandas as pd

PROBABILITY = "probability_"
"""Beginning of the columns that have a class's probability."""
_COLUMNS = {"where", "text", "label"}


def save_out_of_fold(folder: Path, frame: pd.DataFrame) -> None:
    """Writes :attr:`pyllmclf.TuneResult.out_of_fold` to a run's folder.

    Raises
    ------
    ResourceError
        If the file can't be written.
    """
    with new_path(folder / OUT_OF_FOLD_FILE) as path:
        frame.to_parquet(path)


def read_out_of_fold(folder: str | os.PathLike[str]) -> pd.DataFrame | None:
    """Reads what :func:`save_out_of_fold` wrote; ``None`` if the folder has no such file.

    Raises
    ------
    UsageError
        If the folder does not exist.
    ModelError
        If the file is damaged.
    """
    import pandas as pd
    import pyarrow as pa

    if not Path(folder).is_dir():
        raise UsageError(f"{os.fspath(folder)}: not a folder; give the output folder of tune.")
    path = Path(folder) / OUT_OF_FOLD_FILE
    if not path.is_file():
        return None
    try:
        frame = pd.read_parquet(path)
        missing = _COLUMNS - set(frame.columns)
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ModelError(f"{path}: damaged ({error}); remove it, or run tune again.") from error
    # A list of labels is an array in the file.
    frame["label"] = [label if isinstance(label, str) or not hasattr(label, "__len__") else tuple(label)
                      for label in frame["label"]]  # fmt: skip
    return frame
