"""The types of files that data are read from, by name; the readers are in :mod:`pyllmclf.data.readers.files`."""

from __future__ import annotations

# A type's endings; the first is the usual one.
ENDINGS = {
    "CSV": (".csv",),
    "TSV": (".tsv", ".tab", ".psv"),
    "JSON": (".json",),
    "JSONL": (".jsonl", ".ndjson"),
    "Excel": (".xlsx", ".xlsm", ".xlsb", ".xls"),
    "OpenDocument": (".ods",),
    "Parquet": (".parquet", ".pq"),
    "Arrow": (".arrow", ".feather", ".ipc"),
    "text": (".txt",),
}
TYPE_OF = {ending: name for name, endings in ENDINGS.items() for ending in endings}


def listed() -> str:
    """The types as a sentence lists them."""
    *others, last = ENDINGS
    return f"{', '.join(others)} or {last}"


# For help texts: data of labelled texts.
DATA_HELP = f"Data set (sms_spam, imdb, sample), {listed()} file, or a folder with a subfolder for each class."
