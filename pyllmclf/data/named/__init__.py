"""The named data sets: ``sms_spam``, ``imdb`` and the sample that the package ships, one module each.

A name may carry a partition: ``sms_spam`` is ``sms_spam:balanced``.

===========  ==============  =================================================================================
name         partition       splits
===========  ==============  =================================================================================
sms_spam     balanced        train 1045, validation 149, test 300: the published balanced split
sms_spam     full            all 5,574 texts, read literally
imdb         official        train 25,000, test 25,000
imdb         published       train 35,000, validation 5,000, test 10,000: a published shuffle of all 50,000
sample       default         train 504, validation 72, test 144: messages to a shop's help desk
===========  ==============  =================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import UsageError
from ...suggestions import did_you_mean
from . import imdb, sample, sms_spam
from .cut import Splits

__all__ = ["PARTITIONS", "Splits", "is_named", "load_named"]

# The first partition of each data set is its default.
PARTITIONS: dict[str, dict[str, Callable[[], Splits]]] = {
    "sms_spam": {"balanced": sms_spam.balanced, "full": sms_spam.full},
    "imdb": {"official": imdb.official, "published": imdb.published},
    "sample": {"default": sample.default},
}


def is_named(data: object) -> bool:
    """Whether ``data`` is the name of a data set; a file of that name, or a folder with data, takes precedence."""
    return isinstance(data, str) and data.partition(":")[0] in PARTITIONS and not _holds_data(Path(data))


def _holds_data(path: Path) -> bool:
    """Whether a path is a file, or a folder that is neither empty nor that of a training or classifier."""
    if not path.is_dir():
        return path.is_file()
    names = [each.name for each in path.iterdir() if not each.name.startswith(".")]
    of_training = ("checkpoint-", "held_out", "tune", "pyllmclf.json")
    return bool(names) and not any(name.startswith(of_training) for name in names)


def load_named(name: str, partition: str | None = None) -> Splits:
    """Loads all splits of a named data set.

    Parameters
    ----------
    name : str
        ``NAME`` or ``NAME:PARTITION``.
    partition : str, optional
        Overrides the one in the name.

    Returns
    -------
    dict of str to TextData
        The splits that the partition has of ``"train"``, ``"validation"`` and ``"test"``, or ``"all"``.

    Raises
    ------
    UsageError
        For an unknown name or partition.
    DataError
        If the files are damaged, or are neither on this machine nor can be fetched.
    """
    base, _, named_partition = name.partition(":")
    if base not in PARTITIONS:
        raise UsageError(
            f"there is no data set {base!r}; the named ones are {', '.join(PARTITIONS)}"
            f"{did_you_mean(base, PARTITIONS)}."
        )
    loaders = PARTITIONS[base]
    chosen = partition or named_partition or next(iter(loaders))
    if chosen not in loaders:
        raise UsageError(
            f"{base} has no partition {chosen!r}; it has {', '.join(loaders)}{did_you_mean(chosen, loaders)}."
        )
    return loaders[chosen]()
