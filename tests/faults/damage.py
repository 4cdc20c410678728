"""Damage, counted: every byte of a checkpoint flipped, every file cut at every length, and none accepted.

Run as ``python tests/faults/damage.py``. The same is done to kept tokens and to the weights of a model folder without a
manifest, as the hub has them: cut anywhere these must be refused, and whatever is done to their header must be refused
or read as it stands, never crash.
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
    """A model of few bytes, as transformers writes it."""
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
    """A checkpoint in the middle of a training, with all that one has."""

    arguments = {"trainable": "all", "epochs": 2, "batch_size": 2, "max_length": 6, "progress": False} | changes
    pyllmclf.finetune(model, (TEXTS, LABELS), output_dir=run, save_every_steps=1, keep_last=9, **arguments)
    return run / "checkpoint-1"


def content_of(folder: Path) -> dict[Path, bytes]:
    """Every file."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def flips(content: bytes, draw: random.Random, every: int) -> Iterator[bytes]:
    """One bit of each byte (or of every so-manieth) turned."""
    for position in range(draw.randrange(every), len(content), every):
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


def cuts(content: bytes, draw: random.Random, every: int) -> Iterator[bytes]:
    """The first bytes, for every number of them (or every so-manieth)."""
    for length in range(draw.randrange(every), len(content), every):
        yield content[:length]


class Sweep:
    """Damages files, opens what they are part of, and counts."""

    def __init__(self, every: int, seed: int) -> None:
        self.every, self.draw = every, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self, what: str, files: dict[Path, bytes], opened: Callable[[], object]) -> None:
        """Every file flipped and cut; opening it must raise this library's error."""
        for path, content in files.items():
            for kind, damaged in (("flipped", flips), ("cut", cuts)):
                for changed in damaged(content, self.draw, self.every):
                    path.write_bytes(changed)
                    self.count(kind, f"{what}, {path.name} {kind}", opened)
            path.write_bytes(content)

    def header(self, path: Path, opened: Callable[[], object], count: int) -> None:
        """Random bytes in a safetensors header: refused, or other names and values, but no crash."""
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
        """Opening must raise this library's error."""
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
        """One line."""
        names = ("flipped", "cut", "headers", "headers refused", "accepted")
        return ", ".join(f"{name} {self.counts[name]:,}" for name in names)


def main() -> int:
    """Counts; exits with 1 if anything was accepted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="of how many bytes one is damaged")
    parser.add_argument("--headers", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    sweep = Sweep(arguments.every, arguments.seed)
    with tempfile.TemporaryDirectory(prefix="pyllmclf-damage-") as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        model = tiny_bert(folder / "model")
        for trainable in ("all", "lora"):
            kept = checkpoint(model, folder / trainable, trainable=trainable)
            sweep.run(trainable, content_of(kept), lambda kept=kept: pyllmclf.load(kept))
            pyllmclf.load(kept)
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
    print(f"{sweep.summary()}; {time.perf_counter() - begun:.0f} s")
    return 1 if sweep.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
