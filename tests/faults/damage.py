"""Damages checkpoints and counts: flips a bit in every byte, cuts every file at every length; none may be accepted.

``python tests/faults/damage.py`` does the same to stored tokens, and to the weights of a model folder without a
manifest, as on the hub. Weights that are cut anywhere must be refused. A damaged header must be refused or read as it
is, and never crash.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

import pyllmclf
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import LibraryTokenizer

TEXTS, LABELS = ["a cab", "bad", "c a b", "dab"], ["x", "y", "x", "y"]


def tiny_bert(folder: Path) -> Path:
    """A model of few bytes, written by transformers."""
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", *(f"##{c}" for c in "abcd")]
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=8,
        id2label={0: "x", 1: "y"},
        label2id={"x": 0, "y": 1},
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    return folder


def checkpoint(model: Path, run: Path, **changes: object) -> Path:
    """Makes a checkpoint in the middle of a training, with all its files."""

    arguments = {"trainable": "all", "epochs": 2, "batch_size": 2, "max_length": 6, "progress": False} | changes
    pyllmclf.finetune(model, (TEXTS, LABELS), output_dir=run, save_every_steps=1, keep_last=9, **arguments)
    return run / "checkpoint-1"


def content_of(folder: Path) -> dict[Path, bytes]:
    """The content of every file."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flips(content: bytes, draw: random.Random, every: int) -> Iterator[bytes]:
    """Copies with one bit flipped, in every byte or in one of ``every`` bytes."""
    for position in range(draw.randrange(every), len(content), every):
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def cuts(content: bytes, draw: random.Random, every: int) -> Iterator[bytes]:
    """Prefixes of every length, or of one in ``every`` lengths."""
    for length in range(draw.randrange(every), len(content), every):
        yield content[:length]


class Sweep:
    """Damages files, opens their folders, and counts the outcomes."""

    def __init__(self, every: int, seed: int) -> None:
        self.every, self.draw = every, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, what: str, files: dict[Path, bytes], opened: Callable[[], object]) -> None:
        """Flips and cuts every file; opening the folder must raise this library's error."""
        for path, content in files.items():
            for kind, damaged in (("flipped", flips), ("cut", cuts)):
                for changed in damaged(content, self.draw, self.every):
                    path.write_bytes(changed)
                    self.count(kind, f"{what}, {path.name} {kind}", opened)
            path.write_bytes(content)

    def header(self, path: Path, opened: Callable[[], object], count: int) -> None:
        """Writes random bytes into a safetensors header, which must be refused or read as other tensors, not crash."""
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        for _ in range(count):
            changed = bytearray(content)
            for _ in range(self.draw.randint(1, 4)):
                changed[self.draw.randrange(end)] = self.draw.choice((self.draw.randrange(256), *b'[]{}":,0919'))
            path.write_bytes(bytes(changed))
            self.counts["headers"] += 1
            try:
                opened()
            except pyllmclf.PyllmclfError:
                self.counts["headers refused"] += 1
            except Exception as error:
                self.wrong.append(f"{path.name}, header {bytes(changed[:end])!r}: {error!r}")
        path.write_bytes(content)

    def count(self, kind: str, what: str, opened: Callable[[], object]) -> None:
        """Counts an opening, which must raise this library's error."""
        self.counts[kind] += 1
        try:
            opened()
        except pyllmclf.PyllmclfError:
            return
        except Exception as error:
            self.wrong.append(f"{what}: {error!r}")
            return
        self.counts["accepted"] += 1
        self.wrong.append(f"{what}: accepted")

    def summary(self) -> str:
        """The counts in one line."""
        names = ("flipped", "cut", "headers", "headers refused", "accepted")
        return ", ".join(f"{name} {self.counts[name]:,}" for name in names)


def main() -> int:
    """Runs the sweep; returns 1 if anything was accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="damage one of so many bytes")
    parser.add_argument("--headers", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    sweep = Sweep(arguments.every, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="pyllmclf-damage-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        model = tiny_bert(folder / "model")
        for trainable in ("all", "lora"):
            saved = checkpoint(model, folder / trainable, trainable=trainable)
            sweep.run(trainable, content_of(saved), lambda saved=saved: pyllmclf.load(saved))
            pyllmclf.load(saved)
        tokens = folder / "tokens"
        TokenStore.from_texts(TEXTS, LibraryTokenizer.from_wordpiece_vocab(model / "vocab.txt")).save(tokens)
        sweep.run("tokens", content_of(tokens), lambda: TokenStore.open(tokens))
        weights = model / "model.safetensors"
        content = weights.read_bytes()
        for cut in cuts(content, sweep.draw, arguments.every):
            weights.write_bytes(cut)
            sweep.count("cut", "a model folder's weights cut", lambda: pyllmclf.load(model))
        weights.write_bytes(content)
        sweep.header(weights, lambda: pyllmclf.load(model), arguments.headers)
        pyllmclf.load(model)
    for line in sweep.wrong[:50]:
        print(line)
    print(f"{sweep.summary()}; {time.perf_counter() - start:.0f} s")
    return 1 if sweep.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
