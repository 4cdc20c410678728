"""The folder of a training for which the command line names none: ``pyllmclf-runs/<data>-<model>-N``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResourceError

RUNS = "pyllmclf-runs"
_LONGEST = 80  # bytes of each part of a name


@contextmanager
def new_run_folder(data: object, model: object) -> Iterator[Path]:
    """Makes the folder with the first free number, for one process alone; removes it if it stays empty.

    Parameters
    ----------
    data, model : object
        The arguments ``train`` and ``model``.

    Raises
    ------
    ResourceError
        If the current folder can't be written, before anything is trained.
    UsageError
        If its name is not UTF-8.
    """
    from ..data.atomic_folder import check_name

    runs = Path(RUNS)
    check_name(runs)
    try:
        runs.mkdir(exist_ok=True)
        for number in itertools.count(1):
            folder = runs / f"{_data_name(data)}-{_model_name(model)}-{number}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        raise ResourceError(
            f"the classifier can't be saved to {RUNS} in the current folder ({error.strerror}); name a folder with "
            "--output-dir, or train without saving with --no-save."
        ) from error
    try:
        yield folder
    finally:
        for path in (folder, runs):
            with suppress(OSError):  # not empty
                path.rmdir()


def _data_name(data: object) -> str:
    name = Path(str(data)).name
    if re.fullmatch(r"/dev/(stdin|fd/\d+)|-", str(data)):
        return "stdin"
    return _safe(re.sub(r"(\.[A-Za-z]\w{0,7})+$", "", name) or name, "data")


def _model_name(model: object) -> str:
    path = Path(str(model))
    if path.is_dir() and re.fullmatch(r"last|best|checkpoint-\d+|", path.name):  # of a run, which has the better name
        path = path.absolute().parent if path.name else path.resolve()
    return _safe(path.name, "model")


def _safe(name: str, otherwise: str) -> str:
    """A name of letters, digits, ``.``, ``_`` and ``-`` that begins with a letter or digit."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-._")
    return safe.encode()[:_LONGEST].decode("utf-8", "ignore") or otherwise
