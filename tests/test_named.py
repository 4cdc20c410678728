"""The named data sets: contents, splits, look-up and fetching."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pyllmclf.data import fetch
from pyllmclf.data.labels import LabelEncoder
from pyllmclf.data.lengths import LengthReport
from pyllmclf.data.named import imdb, is_named, load_named, sample, sms_spam
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.readers import TextData
from pyllmclf.data.sources import load_dataset, read_data
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import TiktokenTokenizer
from pyllmclf.errors import DataError, ResourceError, UsageError

UNREACHABLE = "file:///nonexistent/archive"


def sizes(splits: dict[str, TextData]) -> dict[str, int]:
    return {name: len(split) for name, split in splits.items()}


def rows(data: TextData) -> list[tuple[str, str | int]]:
    assert data.labels is not None
    return list(zip(data.texts, data.labels, strict=True))


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- the sample -------------------------------------------------------------------------------------------------------


def test_sample() -> None:
    splits = load_dataset("sample")
    assert sizes(splits) == {"train": 504, "validation": 72, "test": 144}
    for part in splits.values():
        assert len(LabelEncoder.fit(part).classes) == 4
    everything = [row for part in splits.values() for row in rows(part)]
    with sample.FILE.open(encoding="utf-8", newline="") as file:
        assert everything == [(row["text"], row["label"]) for row in csv.DictReader(file)]
    assert len(set(everything)) == 720


def test_splits_of_the_sample_by_name() -> None:
    splits = load_named("sample")
    assert read_data("sample", split="validation") == splits["validation"]
    assert read_data("sample", default_split="test") == splits["test"]
    assert rows(read_data("sample")) == [row for part in splits.values() for row in rows(part)]
    assert rows(read_data("sample", split="all")) == rows(read_data("sample"))
    with pytest.raises(UsageError, match=r"sample has no split 'dev'.*train, validation, test"):
        read_data("sample", split="dev")


# --- SMS Spam ---------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_sms_spam_balanced_is_the_published_split(data_dir: Path) -> None:
    splits = load_dataset("sms_spam")
    assert sizes(splits) == {"train": 1045, "validation": 149, "test": 300}
    # The published procedure, by itself: pandas' default quoting, ham drawn to the number of spam, two shuffles, a cut.
    path = data_dir / "sms_spam" / "SMSSpamCollection"
    frame = pd.read_csv(path, sep="\t", header=None, names=["Label", "Text"])
    assert len(frame) == 5572
    spam_count = int((frame["Label"] == "spam").sum())
    assert spam_count == 747
    ham = frame[frame["Label"] == "ham"].sample(spam_count, random_state=123)
    balanced = pd.concat([ham, frame[frame["Label"] == "spam"]])
    balanced = balanced.sample(frac=1, random_state=123).reset_index(drop=True)
    balanced = balanced.sample(frac=1, random_state=123).reset_index(drop=True)
    published = list(zip(balanced["Text"], balanced["Label"], strict=True))
    assert rows(splits["train"]) == published[:1045]
    assert rows(splits["validation"]) == published[1045:1194]
    assert rows(splits["test"]) == published[1194:]
    assert load_dataset("sms_spam:balanced") == splits == load_dataset("sms_spam", "balanced")


@pytest.mark.real_data
def test_sms_spam_balanced_lengths(data_dir: Path, gpt2_vocabulary: Path) -> None:
    train = load_dataset("sms_spam")["train"]
    tokenizer = TiktokenTokenizer.gpt2()
    assert max(map(len, tokenizer.encode_batch(train.texts))) == 120
    packer = Packer(TokenStore.from_texts(train.texts, tokenizer), tokenizer, RowLayout(1024))
    report = LengthReport.of(packer, tokenizer)
    assert (report.texts, report.longest, report.truncated, report.empty) == (1045, 120, 0, 0)


@pytest.mark.real_data
def test_sms_spam_full_is_read_literally(data_dir: Path) -> None:
    splits = load_dataset("sms_spam:full")
    assert list(splits) == ["all"]
    raw = (data_dir / "sms_spam" / "SMSSpamCollection").read_bytes().decode("utf-8")
    lines = raw.removesuffix("\n").split("\n")
    assert len(splits["all"]) == len(lines) == 5574
    assert [f"{label}\t{text}" for text, label in rows(splits["all"])] == lines
    assert Counter(splits["all"].labels) == {"ham": 4827, "spam": 747}
    assert splits["all"].lines == list(range(1, 5575))
    # The partition has no "train": all of it is read.
    assert read_data("sms_spam:full", default_split="train") == splits["all"]


# --- IMDb -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imdb_frame(data_dir: Path) -> pd.DataFrame:
    return pd.read_csv(data_dir / "imdb" / "imdb_50k.csv.gz", dtype=str, keep_default_na=False)


@pytest.mark.real_data
def test_imdb_official(imdb_frame: pd.DataFrame) -> None:
    splits = load_dataset("imdb")
    assert sizes(splits) == {"train": 25_000, "test": 25_000}
    for name, part in splits.items():
        chosen = imdb_frame[imdb_frame["split"] == name]
        assert rows(part) == list(zip(chosen["text"], map(int, chosen["label"]), strict=True))
        assert Counter(part.labels) == {0: 12_500, 1: 12_500}


@pytest.mark.real_data
def test_imdb_published_split(imdb_frame: pd.DataFrame) -> None:
    splits = load_dataset("imdb:published")
    assert sizes(splits) == {"train": 35_000, "validation": 5_000, "test": 10_000}
    # The folders were read one after the other, each in the order of its file names.
    folders = []
    for split in ("test", "train"):
        for label in ("1", "0"):
            one = imdb_frame[(imdb_frame["split"] == split) & (imdb_frame["label"] == label)]
            file_names = one["id"] + "_" + one["rating"] + ".txt"
            folders.append(one.iloc[sorted(range(len(one)), key=file_names.tolist().__getitem__)])
    frame = pd.concat(folders, ignore_index=True)[["text", "label"]].astype({"label": int})
    frame = frame.sample(frac=1, random_state=123).reset_index(drop=True)
    frame = frame.sample(frac=1, random_state=123).reset_index(drop=True)
    start = 0
    for part in splits.values():
        cut = frame.iloc[start : start + len(part)]
        start += len(part)
        assert rows(part) == list(zip(cut["text"], cut["label"], strict=True))
    assert start == 50_000


# --- names ------------------------------------------------------------------------------------------------------------


def test_unknown_names_and_partitions() -> None:
    with pytest.raises(UsageError, match=r"'ag_news'.*sms_spam, imdb, sample"):
        load_dataset("ag_news")
    with pytest.raises(UsageError, match=r"imdb has no partition 'balanced'.*official, published"):
        load_dataset("imdb:balanced")
    with pytest.raises(UsageError, match=r"sms_spam has no partition 'published'.*balanced, full"):
        load_dataset("sms_spam", "published")
    with pytest.raises(UsageError, match="sample has no partition 'x'"):
        read_data("sample:x")


def test_the_argument_overrides_the_partition_in_the_name() -> None:
    assert sizes(load_dataset("sample:nonsense", "default")) == {"train": 504, "validation": 72, "test": 144}


def test_split_is_the_deprecated_name_of_partition() -> None:
    with pytest.warns(DeprecationWarning, match=r"split='default'\) is deprecated; say partition='default'") as said:
        splits = load_dataset("sample", split="default")
    assert said[0].filename == __file__
    assert splits == load_dataset("sample", partition="default") == load_dataset("sample", "default")
    with pytest.warns(DeprecationWarning), pytest.raises(UsageError, match="sample has no partition 'train'"):
        load_dataset("sample", split="train")
    with pytest.raises(UsageError, match="leave split out"):
        load_dataset("sample", "default", split="default")


def test_a_file_of_that_name_counts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_named("imdb")
    assert is_named("imdb:published")
    assert not is_named("imdb.csv")
    assert not is_named(Path("imdb"))
    (tmp_path / "imdb").write_text("text,label\n", encoding="utf-8")
    assert not is_named("imdb")
    with pytest.raises(DataError, match="can't tell the format"):
        read_data("imdb")


def test_a_split_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\n", encoding="utf-8")
    message = f"split='test' can be chosen only for a data set that has splits, not for {path}"
    with pytest.raises(UsageError, match=re.escape(message)):
        read_data(path, split="test")
    with pytest.raises(UsageError, match="data of type tuple"):
        read_data((["a"], ["x"]), split="test")


# --- look-up ----------------------------------------------------------------------------------------------------------

SMALL_SMS = b'ham\tfirst\nspam\tsecond \nham\tsays "hi"\n'


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An empty data folder and an empty cache; nothing can be fetched."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv("PYLLMCLF_DATA_DIR", str(data))
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", str(cache))
    monkeypatch.setattr(sms_spam, "URL", UNREACHABLE)
    monkeypatch.setattr(imdb, "URL", UNREACHABLE)
    return data, cache


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def files_under(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("PYLLMCLF_CACHE_DIR")
    assert fetch.cache_dir() == tmp_path / "xdg" / "pyllmclf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert fetch.cache_dir() == tmp_path / ".cache" / "pyllmclf"


def test_the_data_folder_comes_before_the_cache(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    data, cache = places
    in_data = put(data / "sms_spam" / "SMSSpamCollection", SMALL_SMS)
    in_cache = put(cache / "data" / "sms_spam" / "SMSSpamCollection", b"spam\tcached\n")
    assert fetch.find_local("sms_spam", "SMSSpamCollection") == in_data
    monkeypatch.setattr(sms_spam, "SHA256", hash_of(SMALL_SMS))
    assert load_named("sms_spam:full")["all"].texts == ["first", "second ", 'says "hi"']

    in_data.unlink()
    assert fetch.find_local("sms_spam", "SMSSpamCollection") == in_cache
    monkeypatch.setattr(sms_spam, "SHA256", hash_of(b"spam\tcached\n"))
    assert load_named("sms_spam:full")["all"].texts == ["cached"]
    monkeypatch.delenv("PYLLMCLF_DATA_DIR")
    assert fetch.find_local("sms_spam", "SMSSpamCollection") == in_cache

    in_cache.unlink()
    assert fetch.find_local("sms_spam", "SMSSpamCollection") is None


@pytest.mark.parametrize("partition", ["balanced", "full"])
def test_sms_spam_with_a_wrong_hash_is_refused(places: tuple[Path, Path], partition: str) -> None:
    path = put(places[0] / "sms_spam" / "SMSSpamCollection", SMALL_SMS)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + hash_of(SMALL_SMS)):
        load_named("sms_spam", partition)
    assert path.read_bytes() == SMALL_SMS


@pytest.mark.parametrize("partition", ["official", "published"])
def test_imdb_with_a_wrong_hash_is_refused(places: tuple[Path, Path], partition: str) -> None:
    content = b"split,label,rating,id,text\ntrain,1,9,0,good\n"
    path = put(places[0] / "imdb" / "imdb_50k.csv.gz", gzip.compress(content))
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + hash_of(content)):
        load_named("imdb", partition)


def test_imdb_how_gzip_packed_it_does_not_count(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"split,label,rating,id,text\ntrain,1,9,0,good\ntest,0,1,0,bad\n"
    monkeypatch.setattr(imdb, "CSV_SHA256", hash_of(content))
    for level in (1, 9):
        put(places[0] / "imdb" / "imdb_50k.csv.gz", gzip.compress(content, level))
        assert {name: rows(part) for name, part in load_named("imdb").items()} == {
            "train": [("good", 1)],
            "test": [("bad", 0)],
        }


@pytest.mark.parametrize(
    "content",
    [b"no gzip", b"", gzip.compress(b"x" * 1000)[:20], gzip.compress(b"x")[:10] + b"\x07" * 20],
    ids=["none", "empty", "cut", "damaged"],
)
def test_imdb_file_that_is_no_gzip_file(places: tuple[Path, Path], content: bytes) -> None:
    path = put(places[0] / "imdb" / "imdb_50k.csv.gz", content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_named("imdb")


# --- fetching ---------------------------------------------------------------------------------------------------------


def zip_archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tar_archive(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("aclImdb/train/pos")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            content = text.encode()
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


REVIEWS = {
    "aclImdb/README": "not a review",
    "aclImdb/train/unsup/0_0.txt": "without a label",
    "aclImdb/train/urls_pos.txt": "addresses",
    "aclImdb/test/neg/0_2.txt": "test bad",
    "aclImdb/train/pos/10_7.txt": 'ten, "quoted"\nwith a line break',
    "aclImdb/train/pos/9_10.txt": " nine\u2028\x85é ",
    "aclImdb/train/neg/3_1.txt": "three\r\nNA",
    "aclImdb/test/pos/1_8.txt": "007",
}
REVIEWS_CSV = (
    "split,label,rating,id,text\n"
    'train,0,1,3,"three\r\nNA"\n'
    "train,1,10,9, nine\u2028\x85é \n"
    'train,1,7,10,"ten, ""quoted""\nwith a line break"\n'
    "test,0,2,0,test bad\n"
    "test,1,8,1,007\n"
)


def test_sms_spam_is_fetched_once(tmp_path: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_archive(tmp_path / "sms.zip", {"readme": b"", "SMSSpamCollection": SMALL_SMS})
    monkeypatch.setattr(sms_spam, "URL", archive.as_uri())
    monkeypatch.setattr(sms_spam, "SHA256", hash_of(SMALL_SMS))
    expected = [("first", "ham"), ("second ", "spam"), ('says "hi"', "ham")]
    assert rows(load_named("sms_spam:full")["all"]) == expected
    data, cache = places
    assert files_under(cache) == ["data/sms_spam/SMSSpamCollection"]
    assert (cache / "data" / "sms_spam" / "SMSSpamCollection").read_bytes() == SMALL_SMS
    assert files_under(data) == []
    archive.unlink()
    assert rows(load_named("sms_spam:full")["all"]) == expected


def test_sms_spam_fetched_with_a_wrong_hash_leaves_nothing(
    tmp_path: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_archive(tmp_path / "sms.zip", {"SMSSpamCollection": SMALL_SMS})
    monkeypatch.setattr(sms_spam, "URL", archive.as_uri())
    with pytest.raises(DataError, match=hash_of(SMALL_SMS)):
        load_named("sms_spam:full")
    assert files_under(places[1]) == []


def test_sms_spam_archive_that_is_none(
    tmp_path: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = zip_archive(tmp_path / "other.zip", {"something": b"else"})
    page = put(tmp_path / "page.zip", b"<html>moved</html>")
    for archive in (other, page):
        monkeypatch.setattr(sms_spam, "URL", archive.as_uri())
        with pytest.raises(DataError, match=re.escape(archive.as_uri())):
            load_named("sms_spam")
        assert files_under(places[1]) == []


def test_imdb_is_fetched_once(tmp_path: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar_archive(tmp_path / "imdb.tar.gz", REVIEWS)
    monkeypatch.setattr(imdb, "URL", archive.as_uri())
    monkeypatch.setattr(imdb, "ARCHIVE_SHA256", hash_of(archive.read_bytes()))
    expected = {
        "train": [("three\r\nNA", 0), (" nine\u2028\x85é ", 1), ('ten, "quoted"\nwith a line break', 1)],
        "test": [("test bad", 0), ("007", 1)],
    }
    assert {name: rows(part) for name, part in load_named("imdb").items()} == expected
    data, cache = places
    assert files_under(cache) == ["data/imdb/imdb_50k.csv.gz", "data/imdb/imdb_50k.csv.gz.sha256"]
    assert gzip.decompress((cache / "data" / "imdb" / "imdb_50k.csv.gz").read_bytes()) == REVIEWS_CSV.encode()
    assert files_under(data) == []
    archive.unlink()
    assert {name: rows(part) for name, part in load_named("imdb").items()} == expected


def test_the_csv_file_made_of_the_archive(tmp_path: Path) -> None:
    for name, reviews in (("a", REVIEWS), ("b", dict(reversed(REVIEWS.items())))):
        assert imdb.csv_of_archive(tar_archive(tmp_path / f"{name}.tar.gz", reviews)) == REVIEWS_CSV.encode()


def test_the_csv_file_changed_after_it_was_made(
    tmp_path: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar_archive(tmp_path / "imdb.tar.gz", REVIEWS)
    monkeypatch.setattr(imdb, "URL", archive.as_uri())
    monkeypatch.setattr(imdb, "ARCHIVE_SHA256", hash_of(archive.read_bytes()))
    load_named("imdb")
    path = places[1] / "data" / "imdb" / "imdb_50k.csv.gz"
    path.write_bytes(gzip.compress(REVIEWS_CSV.encode().replace(b"bad", b"good")))
    with pytest.raises(DataError, match=re.escape(str(path))):
        load_named("imdb")


def test_imdb_fetched_with_a_wrong_hash_leaves_nothing(
    tmp_path: Path, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar_archive(tmp_path / "imdb.tar.gz", REVIEWS)
    monkeypatch.setattr(imdb, "URL", archive.as_uri())
    with pytest.raises(DataError, match=hash_of(archive.read_bytes())):
        load_named("imdb")
    assert files_under(places[1]) == []


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sms_spam", "$PYLLMCLF_DATA_DIR/sms_spam/"), ("imdb:published", "$PYLLMCLF_DATA_DIR/imdb/")],
)
def test_an_unreachable_address_says_what_to_do(places: tuple[Path, Path], name: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        load_named(name)
    assert str(caught.value).startswith(f"{UNREACHABLE} can't be fetched")
    assert hint in str(caught.value)
    assert files_under(places[1]) == []


def test_a_folder_of_that_name_counts_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it holds no data: it is empty, or that of a training."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sample/checkpoint-3").mkdir(parents=True)
    assert len(read_data("sample", split="test")) == 144
    (tmp_path / "sample/checkpoint-3").rmdir()
    assert len(read_data("sample", split="test")) == 144
    for label in ("neg", "pos"):
        (tmp_path / "sample/test" / label).mkdir(parents=True)
        (tmp_path / "sample/test" / label / "0.txt").write_text(f"a {label} text")
    assert read_data("sample", split="test").texts == ["a neg text", "a pos text"]
    assert len(read_data("sample:default", split="test")) == 144


def test_a_text_instead_of_a_path_is_refused() -> None:
    with pytest.raises(DataError, match="neither a file or folder nor the name"):
        read_data("is this spam? " * 100)


def test_an_unwritable_cache_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    # Below a regular file, since permissions don't bind root.
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv("PYLLMCLF_DATA_DIR", raising=False)
    with pytest.raises(ResourceError, match="PYLLMCLF_CACHE_DIR"):
        load_dataset("sms_spam")
