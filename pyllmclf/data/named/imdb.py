"""Large Movie Review Dataset (Maas et al. 2011): 50,000 reviews, negative (0) or positive (1).

The file on this machine is a gzipped CSV file made from the original archive, with the columns ``split``, ``label``,
``rating``, ``id`` and ``text``.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from ...errors import DataError
from ..fetch import cache_dir, cache_dir_if_any, download, find_local, write_into_cache
from ..readers import TextData
from .cut import PUBLISHED_SEED, Splits, cut

URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
ARCHIVE_SHA256 = "c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe"
# Of the CSV file, not of its gzipped form, which differs between versions of zlib.
CSV_SHA256 = "f32b202764e4dfe3a2314fc821c3b248e5b7c4105db7320f39566bd907ffc1bd"
FILE = "imdb_50k.csv.gz"
HEADER = ["split", "label", "rating", "id", "text"]
PUBLISHED_SIZES = {"train": 35_000, "validation": 5_000, "test": 10_000}


def official() -> Splits:
    """The splits of the archive: train and test."""
    rows = _rows()
    splits = {}
    for split in ("train", "test"):
        chosen = [row for row in rows if row[0] == split]
        splits[split] = TextData([row[4] for row in chosen], [int(row[1]) for row in chosen], f"imdb ({split})")
    return splits


def published() -> Splits:
    """All 50,000 reviews in the order of the original folders, shuffled twice by pandas, then cut."""
    import pandas as pd

    rows = _rows()
    rows.sort(key=lambda row: (row[0] != "test", row[1] != "1", f"{row[3]}_{row[2]}.txt"))
    order = pd.Series(range(len(rows)))
    for _ in range(2):
        order = order.sample(frac=1, random_state=PUBLISHED_SEED).reset_index(drop=True)
    return cut([r[4] for r in rows], [int(r[1]) for r in rows], order.tolist(), PUBLISHED_SIZES, "imdb:published")


def csv_of_archive(archive: Path) -> bytes:
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
    writer.writerow(HEADER)
    writer.writerows(rows)
    return out.getvalue().encode("utf-8")


def _rows() -> list[list[str]]:
    """Rows of the CSV file without its header, fetched if necessary, with the hash checked."""
    path = find_local("imdb", FILE)
    if path is None:
        path = _fetch()
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read ({error}).") from error
    # A file that was made here, in the user cache, from the pinned archive has its own hash beside it.
    hash_file = _hash_file(path)
    cache = cache_dir_if_any()
    made_here = cache is not None and path.is_relative_to(cache) and hash_file.is_file()
    known = {CSV_SHA256} | ({hash_file.read_text().strip()} if made_here else set())
    if (digest := hashlib.sha256(content).hexdigest()) not in known:
        raise DataError(f"{path}: the SHA-256 of its content is {digest}, not the pinned {CSV_SHA256}; delete it.")
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))[1:]


def _fetch() -> Path:
    archive = download(
        URL,
        expected_sha256=ARCHIVE_SHA256,
        hint=f"put {FILE} (columns {','.join(HEADER)}) into $PYLLMCLF_DATA_DIR/imdb/.",
    )
    try:
        content = csv_of_archive(archive)
    finally:
        archive.unlink(missing_ok=True)
    target = cache_dir() / "data" / "imdb" / FILE
    write_into_cache(_hash_file(target), hashlib.sha256(content).hexdigest().encode())
    write_into_cache(target, gzip.compress(content, mtime=0))
    return target


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
