"""The loader, from texts to batches: against a tokenizer with a padding collator, and on ten million texts.

The baseline is Hugging Face's GPT-2 tokenizer and its collator, which pads each batch to its longest text. Both sides
make the same batches of SMS Spam.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MEMORY, Memory, Work

from pyllmclf.data.loader import BatchLoader
from pyllmclf.data.named import load_named
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import Tokenizer
from pyllmclf.models.hub import find_model

MANY = 10_000_000
LIMIT = 4 * 2**30


@cache
def texts() -> list[str]:
    return load_named("sms_spam")["train"].texts


@cache
def tokenizer() -> Tokenizer:
    return find_model("gpt2", "random").tokenizer


def pack_epoch(store: TokenStore, batch_size: int) -> int:
    """Makes all batches of an epoch; returns their number of tokens."""
    packer = Packer(store, tokenizer(), RowLayout(1024))
    loader = BatchLoader(packer, batch_size=batch_size)
    return sum(len(packer.batch(ids).input_ids) for (ids,) in loader)


def collator(batch_size: int) -> Callable[[int], object]:
    """Returns a function that tokenizes and pads all batches of an epoch."""
    import tokenizers
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(tokenizer().to_json()), pad_token="<|endoftext|>"
    )
    pad = DataCollatorWithPadding(theirs)
    order = BatchLoader(Packer(TokenStore.from_texts(texts(), tokenizer()), tokenizer(), RowLayout(1024))).order(0)

    def run(_: int) -> None:
        shuffled = [texts()[i] for i in order]
        for begin in range(0, len(shuffled), batch_size):
            encoded = theirs(shuffled[begin : begin + batch_size])
            pad([dict(zip(encoded, values, strict=True)) for values in zip(*encoded.values(), strict=True)])

    return run


@pytest.mark.parametrize("batch_size", [8, 32])
@pytest.mark.parametrize("begins", ["with tokens", "with texts"])
def test_loader(begins: str, batch_size: int, compare: Callable) -> None:
    store = TokenStore.from_texts(texts(), tokenizer())

    def from_texts(_: int) -> None:
        pack_epoch(TokenStore.from_texts(texts(), tokenizer()), batch_size)

    compare(
        "loader",
        f"an epoch of SMS Spam, {batch_size} texts, {begins}",
        ours=from_texts if begins == "with texts" else lambda _: pack_epoch(store, batch_size),
        plain=collator(batch_size),
        baseline="tokenizer and padding collator, from texts",
        rounds=9,
        warmup=2,
        work=Work(float(len(store.tokens)), "tokens/s"),
    )


def many_texts() -> None:
    """Indexes and iterates ten million texts of 1 to 39 tokens; prints tokens, seconds of both and the peak memory."""
    import resource
    import time

    class Counting:
        """A tokenizer that only counts letters, so that the store's time dominates."""

        kind, vocab_size, pad_token_id, pairs = "counting", 50257, 50256, None

        def __init__(self) -> None:
            self.prefix: list[int] = []
            self.suffix: list[int] = []

        def encode_batch(self, texts: list[str], continues: list[bool]) -> list[list[int]]:
            return [[7] * len(text) for text in texts]

        def to_json(self) -> str:
            return ""

    start = time.perf_counter()
    store = TokenStore.from_texts(("x" * (1 + i % 39) for i in range(MANY)), Counting())  # type: ignore[arg-type,misc]
    indexed = time.perf_counter()
    packer = Packer(store, Counting(), RowLayout(1024))  # type: ignore[arg-type]
    tokens = sum(len(packer.batch(ids).input_ids) for (ids,) in BatchLoader(packer, batch_size=512))
    end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(tokens, indexed - start, end - indexed, peak)


def test_ten_million_texts(benchmark) -> None:
    """Runs in a separate process, for its peak memory; the limit is 4 GiB."""
    printed: list[str] = []

    def run() -> None:
        process = subprocess.run([sys.executable, Path(__file__)], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        printed.extend(process.stdout.split())

    benchmark.pedantic(run, rounds=1, iterations=1)
    tokens, indexed, iterated, peak = (float(word) for word in printed)
    assert tokens == float(np.sum(1 + np.arange(MANY) % 39)) and peak < LIMIT
    print(f"{tokens:,.0f} tokens: indexed in {indexed:.1f} s, an epoch in {iterated:.1f} s, {peak / 1e6:,.0f} MB")
    name = f"ten million texts: indexed in {indexed:.0f} s, an epoch of batches in {iterated:.0f} s"
    MEMORY.append(Memory("loader", name, "the limit of 4 GiB", LIMIT, int(peak), 0, store_bytes(int(tokens))))


def store_bytes(tokens: int) -> int:
    """Bytes of the tokens and offsets."""
    return 4 * tokens + 8 * (MANY + 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    many_texts()
