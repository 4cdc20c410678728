"""The fuzz targets on their corpora and on mutations of these; ``tests/fuzz/run.sh`` runs longer."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "fuzz/corpus"
MUTATIONS = {"specification": 150, "rows": 400}
TOKENS = [b'"', b",", b"\n", b"\r\n", b"{", b"}", b"[", b"null", b"-1", b"1e999", b"9" * 30, b"\xff", b"\0", b"\\u"]


def inputs(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def mutations(found: list[bytes], count: int) -> Iterator[bytes]:
    """Inputs with bytes turned, put in, taken out, or taken from another input."""
    draw = random.Random(0)
    for _ in range(count):
        content = bytearray(draw.choice(found))
        for _ in range(draw.randint(1, 4)):
            at = draw.randint(0, len(content))
            length = draw.randint(0, 8)
            other = draw.choice(found)
            begin = draw.randint(0, len(other))
            put = draw.choice([draw.randbytes(length), draw.choice(TOKENS), other[begin : begin + length], b""])
            content[at : at + draw.choice([0, len(put), length])] = put
        yield bytes(content)


@pytest.mark.parametrize("target", TARGETS)
def test_target(target: str) -> None:
    found = inputs(target)
    assert found
    for data in [b"", *found, *mutations(found, MUTATIONS.get(target, 1500))]:
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{target} on {data!r}") from error


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == {*TARGETS, "fuzz_data"}
