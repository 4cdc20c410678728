"""Writes the seed corpus of the fuzz targets: ``python tests/fuzz/make_corpus.py``."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import targets
import torch
from safetensors.torch import save

CORPUS = Path(__file__).parent / "corpus"


def header(entries: dict[str, object], body: bytes = b"") -> bytes:
    """A safetensors file with a header of these entries."""
    written = json.dumps(entries).encode()
    return len(written).to_bytes(8, "little") + written + body


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    """A tensor's entry in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def seeds() -> dict[str, list[bytes]]:
    """The seed inputs of each target."""
    table = b'text,label\n"a ""b""\nc",x\nd,y\n'
    lines = b'{"text": "a", "label": 1}\n\n{"text": "\\ud83d\\ude00", "label": ["x", "y"]}\n'
    flat, offsets = np.array([3, 4, 5], np.int32).tobytes(), np.array([0, 2, 3], np.int64).tobytes()
    key = json.dumps({"sha256": "0" * 64}, indent=2, sort_keys=True).encode()
    activations = torch.arange(6, dtype=torch.float32).numpy().tobytes()
    saved = targets.classifier()
    specifications = enumerate(name for name in targets.SPECIFICATIONS if len(saved[name]) < 10_000)
    return {
        "readers": [
            bytes([4]) + table,
            bytes([5]) + table.replace(b",", b"\t"),
            bytes([6]) + lines,
            bytes([6 | 8]) + lines,
            bytes([7]) + gzip.compress(table, mtime=0),
            bytes([4 | 16 | 32]) + b"\xef\xbb\xbftext;x,label\r\n \xff,a\r\nb,a\r\n",
            bytes([4]) + b"text,text,label\na,b,c\n",
            bytes([6]) + b'{"text": ["a", "b"], "label": [1, 2]}',
        ],
        "text": [b"\xef\xbb\xbfa\xc3\xa9\n", b"a\nb\xff\xed\xa0\x80", b"\xf0\x9f\x98\x80\0"],
        "safetensors": [
            save({"a": torch.ones(2, 3), "b": torch.zeros(0)}, metadata={"format": "pt"}),
            header({"a": entry([1 << 40], 0, 1 << 42)}),
            header({"a": entry([1 << 33, 1 << 33], 0, 4)}, b"\0" * 4),
            header({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, b"\0" * 6),
            header({"a": entry([1], 4, 0)}, b"\0" * 4),
            (1 << 63).to_bytes(8, "little") + b"{}",
            (100_000_001).to_bytes(8, "little") + b"{",
            b"",
        ],
        "manifest": [
            json.dumps({"pyllmclf_manifest": 1, "files": {"content": {"sha256": "00", "bytes": 7}}}).encode(),
            json.dumps({"pyllmclf_manifest": 1, "files": {"../x": {"sha256": "", "bytes": -1}}}).encode(),
            b"[[]]",
        ],
        "tokens": [bytes([len(flat)]) + flat + offsets, b"\0", bytes([3]) + b"abc"],
        "rows": [
            bytes([len(key)]) + key + activations,
            b"\0" + activations,
            b"\0" + activations[:-3],
            bytes([2]) + b"{}",
        ],
        "config": [
            b'model = "gpt2"\nepochs = 3\n[lora]\nrank = 4\ntarget_modules = ["c_attn"]\n',
            b"[class_weights]\nspam = 2.0\n",
            b"learning-rate = 1e-3\nunknown = 1\n",
        ],
        "specification": [bytes([number]) + saved[name] for number, name in specifications],
        "vocabulary": [b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n", b'{"model": {"type": "BPE"}}'],
    }


def main() -> None:
    """Writes the corpus."""
    for target, inputs in seeds().items():
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(inputs):
            (folder / f"seed-{number}").write_bytes(content)


if __name__ == "__main__":
    main()
