"""The named data sets: ``sms_spam``, ``imdb`` and the sample that the package ships.

A name may carry a partition: ``sms_spam`` is ``sms_spam:balanced``.

===========  ==============  =================================================================================
name         partition       parts
===========  ==============  =================================================================================
sms_spam     balanced        train 1045, validation 149, test 300: the published balanced split
sms_spam     full            all 5,574 texts, read literally
imdb         official        train 25,000, test 25,000
imdb         published       train 35,000, validation 5,000, test 10,000: a published shuffle of all 50,000
sample       default         train 504, validation 72, test 144: messages to a shop's help desk
===========  ==============  =================================================================================
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from ..errors import DataError, ResourceError, UsageError
from .fetch import cache_dir, check_sha256, download, find_local
from .readers import Label, TextData, read_file

SMS_SPAM_URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
SMS_SPAM_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
IMDB_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
IMDB_ARCHIVE_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
# Of the CSV file inside imdb_50k.csv.gz: how gzip packs it differs between zlib versions.
IMDB_CSV_SHA256 = "f32b202764e4dfe3a2314fc821c3b248e5b7c4105db7320f39566bd907ffc1bd"
PUBLISHED_SEED = 123

Parts = dict[str, TextData]


def is_named(data: object) -> bool:
    """Whether ``data`` is the name of a data set (a file of that name counts first)."""
    return isinstance(data, str) and data.partition(":")[0] in PARTITIONS and not Path(data).is_file()


def load_named(name: str, partition: str | None = None) -> Parts:
    """All parts of a named data set.

    Parameters
    ----------
    name : str
        ``NAME`` or ``NAME:PARTITION``.
    partition : str, optional
        Overrides the one in the name.

    Returns
    -------
    dict
        From ``"train"``, ``"validation"``, ``"test"`` (those it has), or ``"all"``, to :class:`TextData`.

    Raises
    ------
    UsageError
        For an unknown name or partition.
    DataError
        If the files are damaged, or neither here nor to be fetched.
    """
    base, _, named_partition = name.partition(":")
    if base not in PARTITIONS:
        raise UsageError(f"there is no data set {base!r}; the named ones are {', '.join(PARTITIONS)}.")
    loaders = PARTITIONS[base]
    chosen = partition or named_partition or next(iter(loaders))
    if chosen not in loaders:
        raise UsageError(f"{base} has no partition {chosen!r}; it has {', '.join(loaders)}.")
    return loaders[chosen]()


def _take(texts: Sequence[str], labels: Sequence[Label], order: Sequence[int], origin: str) -> TextData:
    return TextData([texts[i] for i in order], [labels[i] for i in order], origin)


def _cut(
    texts: Sequence[str], labels: Sequence[Label], order: Sequence[int], sizes: dict[str, int], name: str
) -> Parts:
    parts, start = {}, 0
    for part, size in sizes.items():
        parts[part] = _take(texts, labels, order[start : start + size], f"{name} ({part})")
        start += size
    return parts


# --- SMS Spam ---------------------------------------------------------------------------------------------------------


def _sms_spam_file() -> Path:
    path = find_local("sms_spam", "SMSSpamCollection")
    if path is None:
        path = _fetch_sms_spam()
    check_sha256(path, SMS_SPAM_SHA256)
    return path


def _fetch_sms_spam() -> Path:
    archive = download(
        SMS_SPAM_URL,
        expected_sha256=None,  # the file inside is pinned
        hint="put the file SMSSpamCollection into $PYLLMCLF_DATA_DIR/sms_spam/.",
    )
    target = cache_dir() / "data" / "sms_spam" / "SMSSpamCollection"
    try:
        with zipfile.ZipFile(archive) as opened:
            content = opened.read("SMSSpamCollection")
    except (zipfile.BadZipFile, KeyError, zlib.error) as error:
        raise DataError(f"{SMS_SPAM_URL}: the archive doesn't hold SMSSpamCollection ({error}).") from error
    finally:
        archive.unlink(missing_ok=True)
    if (found := hashlib.sha256(content).hexdigest()) != SMS_SPAM_SHA256:
        raise DataError(f"{SMS_SPAM_URL}: the SHA-256 of the file is {found}, not the pinned {SMS_SPAM_SHA256}.")
    _write_into_place(target, content)
    return target


def _sms_spam_full() -> Parts:
    texts, labels, lines = [], [], []
    path = _sms_spam_file()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line:
            label, text = line.split("\t", maxsplit=1)
            labels.append(label)
            texts.append(text)
            lines.append(number)
    return {"all": TextData(texts, list(labels), str(path), lines)}


def _sms_spam_balanced() -> Parts:
    """The split of the published experiments, row by row.

    They read the file with pandas' default quoting, which joins a few lines (5,572 rows instead of 5,574), and pandas'
    ``sample`` decides which ham is drawn: both are kept, since another reading draws other texts.
    """
    import pandas as pd

    frame = pd.read_csv(
        _sms_spam_file(), sep="\t", header=None, names=["label", "text"], dtype=str, keep_default_na=False
    )
    spam = frame[frame["label"] == "spam"]
    ham = frame[frame["label"] == "ham"].sample(len(spam), random_state=PUBLISHED_SEED)
    mixed = pd.concat([ham, spam])
    for _ in range(2):  # once after the concatenation, once before the split
        mixed = mixed.sample(frac=1, random_state=PUBLISHED_SEED).reset_index(drop=True)
    train, validation = int(len(mixed) * 0.7), int(len(mixed) * 0.1)
    sizes = {"train": train, "validation": validation, "test": len(mixed) - train - validation}
    return _cut(mixed["text"].tolist(), mixed["label"].tolist(), range(len(mixed)), sizes, "sms_spam")


# --- IMDb -------------------------------------------------------------------------------------------------------------


def _imdb_rows() -> list[list[str]]:
    """Rows ``split, label, rating, id, text``."""
    path = find_local("imdb", "imdb_50k.csv.gz")
    if path is None:
        path = _fetch_imdb()
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read ({error}).") from error
    # In the user cache, a file that was made from the pinned archive carries its own hash beside it.
    made_here = path.with_name(path.name + ".sha256")
    trusted = path.is_relative_to(cache_dir()) and made_here.is_file()
    known = {IMDB_CSV_SHA256} | ({made_here.read_text().strip()} if trusted else set())
    if (found := hashlib.sha256(content).hexdigest()) not in known:
        raise DataError(f"{path}: the SHA-256 of its content is {found}, not the pinned {IMDB_CSV_SHA256}; delete it.")
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))[1:]


def _fetch_imdb() -> Path:
    archive = download(
        IMDB_URL,
        expected_sha256=IMDB_ARCHIVE_SHA256,
        hint="put imdb_50k.csv.gz (columns split,label,rating,id,text) into $PYLLMCLF_DATA_DIR/imdb/.",
    )
    try:
        content = imdb_csv(archive)
    finally:
        archive.unlink(missing_ok=True)
    target = cache_dir() / "data" / "imdb" / "imdb_50k.csv.gz"
    _write_into_place(target.with_name(target.name + ".sha256"), hashlib.sha256(content).hexdigest().encode())
    _write_into_place(target, gzip.compress(content, mtime=0))
    return target


def imdb_csv(archive: Path) -> bytes:
    """The labelled reviews of the original archive as CSV, sorted by split, label and id."""
    member_name = re.compile(r"(?:^|/)(train|test)/(neg|pos)/(\d+)_(\d+)\.txt$")
    rows = []
    with tarfile.open(archive) as opened:
        for member in opened:
            if not member.isfile() or (match := member_name.search(str(PurePosixPath(member.name)))) is None:
                continue
            file = opened.extractfile(member)
            assert file is not None
            split, label, number, rating = match.groups()
            rows.append((split, int(label == "pos"), int(rating), int(number), file.read().decode("utf-8")))
    rows.sort(key=lambda row: (row[0] != "train", row[1], row[3]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["split", "label", "rating", "id", "text"])
    writer.writerows(rows)
    return out.getvalue().encode("utf-8")


def _imdb_official() -> Parts:
    rows = _imdb_rows()
    parts = {}
    for part in ("train", "test"):
        chosen = [row for row in rows if row[0] == part]
        parts[part] = TextData([row[4] for row in chosen], [int(row[1]) for row in chosen], f"imdb ({part})")
    return parts


def _imdb_published() -> Parts:
    """All 50,000 reviews in the order of the original folders, shuffled twice by pandas, then cut."""
    import pandas as pd

    rows = _imdb_rows()
    rows.sort(key=lambda row: (row[0] != "test", row[1] != "1", f"{row[3]}_{row[2]}.txt"))
    order = pd.Series(range(len(rows)))
    for _ in range(2):
        order = order.sample(frac=1, random_state=PUBLISHED_SEED).reset_index(drop=True)
    sizes = {"train": 35_000, "validation": 5_000, "test": 10_000}
    return _cut([r[4] for r in rows], [int(r[1]) for r in rows], order.tolist(), sizes, "imdb:published")


# --- the sample -------------------------------------------------------------------------------------------------------


def _sample() -> Parts:
    data = read_file(Path(__file__).parent / "sample" / "messages.csv")
    assert data.labels is not None
    sizes = {"train": 504, "validation": 72, "test": 144}
    return _cut(data.texts, data.labels, range(len(data)), sizes, "sample")


def _write_into_place(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ResourceError(f"{path} can't be written ({error}).") from error


# The first partition of each is its default.
PARTITIONS: dict[str, dict[str, Callable[[], Parts]]] = {
    "sms_spam": {"balanced": _sms_spam_balanced, "full": _sms_spam_full},
    "imdb": {"official": _imdb_official, "published": _imdb_published},
    "sample": {"default": _sample},
}
