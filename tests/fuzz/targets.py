"""Fuzz targets: each takes bytes, and must accept them or raise an error of this library.

Run one under atheris with ``python tests/fuzz/targets.py TARGET tests/fuzz/corpus/TARGET [libFuzzer options]``.
``tests/test_fuzz.py`` runs them without atheris, on inputs derived from their corpora.
"""

from __future__ import annotations

import atexit
import contextlib
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # atheris measures coverage of these imports
    import atheris

    with atheris.instrument_imports(include=["pyllmclf"]):
        import pyllmclf.api
        import pyllmclf.cli.finetune
else:
    import pyllmclf.api
    import pyllmclf.cli.finetune

import numpy as np
import torch
import typer

from pyllmclf.cli.config import from_file
from pyllmclf.data.atomic_folder import verify_folder
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.readers import decode, read_file
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import LibraryTokenizer
from pyllmclf.errors import PyllmclfError
from pyllmclf.models.adapters import read_tensors
from pyllmclf.models.weight_files import read_safetensors
from pyllmclf.training.activation_storage import KEY_FILE, ROWS_FILE, in_shared_file, shared_folder

KINDS = (".csv", ".tsv", ".jsonl", ".csv.gz")
SPECIFICATIONS = ("pyllmclf.json", "config.json", "tokenizer.json", "model.safetensors")


@cache
def scratch() -> Path:
    """A temporary folder of this process."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="pyllmclf-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Accepts this library's errors if they have a message; any other error propagates."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except PyllmclfError as error:
        message = str(error)
        assert message.strip(), "an error without a message"
        assert message.encode(errors="surrogateescape"), message


def readers(data: bytes) -> None:
    """Reads CSV, TSV, JSONL and gzipped CSV files, in their own encoding and with their own delimiter."""
    options, content = data[0] if data else 0, data[1:]
    kind = KINDS[options & 3]
    path = scratch() / f"table{kind}"
    path.write_bytes(gzip.compress(content, 1) if kind.endswith(".gz") and options & 128 else content)
    with refusing():
        data_set = read_file(
            path,
            labelled=bool(options & 4),
            label_separator="|" if options & 8 else None,
            encoding_errors="replace" if options & 16 else "strict",
            empty_texts=("keep", "skip", "error")[(options >> 5) % 3],
        )
        # Columns of JSON have no lines.
        assert data_set.texts and (data_set.lines is None or len(data_set.texts) == len(data_set.lines))
        assert data_set.labels is None or len(data_set.labels) == len(data_set.texts)
        assert data_set.lines is None or data_set.lines == sorted(data_set.lines)
        for text in data_set.texts:
            text.encode()


def text(data: bytes) -> None:
    """Decodes bytes: strict UTF-8 encodes to the same bytes; in a found encoding, or replaced, there is a text."""
    with refusing():
        assert decode(data, "x", encoding="utf-8").encode() == data.removeprefix(b"\xef\xbb\xbf")
    for errors in ("strict", "replace"):
        with refusing():
            decode(data, "x", errors).encode()


def safetensors(data: bytes) -> None:
    """Reads weights and adapters."""
    folder = scratch() / "weights"
    folder.mkdir(exist_ok=True)
    path = folder / "model.safetensors"
    path.write_bytes(data)
    for read in (lambda: dict(read_safetensors(folder)), lambda: read_tensors(path)):
        with refusing():
            total = sum(tensor.numel() * tensor.element_size() for tensor in read().values())
            assert total <= len(data), "tensors that are not in the file"


def manifest(data: bytes) -> None:
    """Verifies a folder with this manifest."""
    folder = scratch() / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "content").write_bytes(b"content")
    (folder / "manifest.json").write_bytes(data)
    with refusing():
        verify_folder(folder, ["content"])


def _with_manifest(folder: Path, files: dict[str, bytes]) -> None:
    """Writes files and a manifest with their correct hashes."""
    folder.mkdir(exist_ok=True)
    listed = {}
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
        listed[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps({"pyllmclf_manifest": 1, "files": listed}))


def tokens(data: bytes) -> None:
    """Opens stored tokens, whose offsets and ids are checked before use."""
    cut = int.from_bytes(data[:1], "little")
    folder = scratch() / "tokens"
    _with_manifest(folder, {"tokens.bin": data[1 : 1 + cut], "offsets.bin": data[1 + cut :]})
    with refusing():
        store = TokenStore.open(folder)
        store.check(50)
        packer = Packer(store, _Specials(), RowLayout(8))
        for i in range(len(store)):
            batch = packer.batch([i])
            assert len(batch.input_ids) <= 8 and int(batch.input_ids.max()) < 50


class _Specials:
    """The attributes of a tokenizer that a packer needs."""

    kind, vocab_size, pad_token_id, fingerprint, without_position, pairs = "fuzzed", 50, 0, "", None, None

    def __init__(self) -> None:
        self.prefix, self.suffix = [1], [2]


def rows(data: bytes) -> None:
    """Opens cached activations; those that do not match the key are computed again."""
    cut = int.from_bytes(data[:1], "little")
    key: dict[str, object] = {"sha256": "0" * 64}
    written = data[1 : 1 + cut] or json.dumps(key, indent=2, sort_keys=True).encode()
    target = shared_folder(scratch(), key)
    _with_manifest(target, {ROWS_FILE: data[1 + cut :], KEY_FILE: written})
    activations = torch.arange(6, dtype=torch.float32).view(2, 3)
    with refusing():
        stored, _ = in_shared_file(scratch(), key, (2, 3), torch.float32, lambda: iter([activations]))
        assert stored.shape == (2, 3)


def config(data: bytes) -> None:
    """Reads the TOML file of ``--config``."""
    path = scratch() / "config.toml"
    path.write_bytes(data)
    context = typer.Context(_command())
    with refusing():
        from_file(context, path)
        assert not any(isinstance(value, (dict, list)) for value in (context.default_map or {}).values())


@cache
def _command() -> Any:
    application = typer.Typer()
    application.command()(pyllmclf.cli.finetune.finetune)
    return typer.main.get_command(application)


@cache
def classifier() -> dict[str, bytes]:
    """The files of a saved classifier."""
    path = scratch() / "classifier"
    texts, labels = ["a b", "c"], ["x", "y"]
    trained = pyllmclf.finetune("gpt2-nano", (texts, labels), weights="random", epochs=1, progress=False)
    trained.classifier.save(path)
    files = {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    del files["manifest.json"]
    return files


def specification(data: bytes) -> None:
    """Opens a checkpoint with one file replaced and all hashes correct."""
    name = SPECIFICATIONS[data[0] % len(SPECIFICATIONS) if data else 0]
    folder = scratch() / "changed"
    _with_manifest(folder, classifier() | {name: data[1:]})
    with refusing():
        pyllmclf.load(folder, device="cpu").predict(["a b"])


def vocabulary(data: bytes) -> None:
    """Reads a WordPiece vocabulary, or a ``tokenizer.json``."""
    path = scratch() / "vocab.txt"
    path.write_bytes(data)
    for read in (LibraryTokenizer.from_wordpiece_vocab, LibraryTokenizer.from_file):
        with refusing():
            tokenizer = read(path)
            (ids,) = tokenizer.encode_batch(["a b"])
            assert all(0 <= i < tokenizer.vocab_size for i in ids)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (readers, text, safetensors, manifest, tokens, rows, config, specification, vocabulary)
}


def main() -> None:
    """Fuzzes one target until atheris stops."""
    torch.set_num_threads(1)
    target = TARGETS[sys.argv.pop(1)]
    np.seterr(all="ignore")
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
