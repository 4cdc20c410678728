"""SMS Spam Collection (Almeida, Hidalgo and Yamakami 2011): messages with the labels ham and spam."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

from ...errors import DataError
from ..fetch import cache_dir, check_sha256, download, find_local, write_into_cache
from ..readers import TextData
from .cut import PUBLISHED_SEED, Splits, cut

URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
# Of the file inside the archive.
SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
FILE = "SMSSpamCollection"


def full() -> Splits:
    """All texts, read literally: one line each, a tab behind the label."""
    texts, labels, lines = [], [], []
    path = _file()
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line:
            label, text = line.split("\t", maxsplit=1)
            labels.append(label)
            texts.append(text)
            lines.append(number)
    return {"all": TextData(list(texts), list(labels), str(path), lines)}


def balanced() -> Splits:
    """The split of the published experiments, row by row: as many ham as spam messages.

    The experiments read the file with pandas' default quoting, which joins a few lines (5,572 rows instead of 5,574),
    and draw the ham messages with pandas' ``sample``. Both are kept, since any other reading draws other texts.
    """
    import pandas as pd

    frame = pd.read_csv(_file(), sep="\t", header=None, names=["label", "text"], dtype=str, keep_default_na=False)
    spam = frame[frame["label"] == "spam"]
    ham = frame[frame["label"] == "ham"].sample(len(spam), random_state=PUBLISHED_SEED)
    mixed = pd.concat([ham, spam])
    for _ in range(2):  # once after the concatenation, once before the split
        mixed = mixed.sample(frac=1, random_state=PUBLISHED_SEED).reset_index(drop=True)
    train, validation = int(len(mixed) * 0.7), int(len(mixed) * 0.1)
    sizes = {"train": train, "validation": validation, "test": len(mixed) - train - validation}
    return cut(mixed["text"].tolist(), mixed["label"].tolist(), range(len(mixed)), sizes, "sms_spam")


def _file() -> Path:
    """The file on this machine, fetched if necessary, with its hash checked."""
    path = find_local("sms_spam", FILE)
    if path is None:
        path = _fetch()
    check_sha256(path, SHA256)
    return path


def _fetch() -> Path:
    archive = download(
        URL,
        expected_sha256=None,  # the file inside is pinned
        hint=f"put the file {FILE} into $PYLLMCLF_DATA_DIR/sms_spam/.",
    )
    try:
        with zipfile.ZipFile(archive) as opened:
            content = opened.read(FILE)
    except (zipfile.BadZipFile, KeyError, zlib.error) as error:
        raise DataError(f"{URL}: the archive doesn't hold {FILE} ({error}).") from error
    finally:
        archive.unlink(missing_ok=True)
    if (digest := hashlib.sha256(content).hexdigest()) != SHA256:
        raise DataError(f"{URL}: the SHA-256 of the file is {digest}, not the pinned {SHA256}.")
    target = cache_dir() / "data" / "sms_spam" / FILE
    write_into_cache(target, content)
    return target
