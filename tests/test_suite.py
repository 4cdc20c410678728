"""Helpers of the other tests: the number of threads, pairwise selection, unchanged model folders."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path

import pytest
import test_pooled_row
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import Folders
from pairwise import pairwise


def test_threads_are_those_of_the_environment() -> None:
    """One by default; a plugin that imported torch before conftest.py would have it take all cores."""
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])


def counted(cases: list[tuple[object, ...]]) -> Counter[object]:
    """How often each two values of different factors meet."""
    return Counter(pair for case in cases for pair in itertools.combinations(enumerate(case), 2))


def test_every_pair_of_the_pooled_rows_factors_is_tested() -> None:
    factors = test_pooled_row.FACTORS
    (mark,) = test_pooled_row.test_logits_and_gradients.pytestmark
    names, cases = mark.args
    assert names == tuple(factors) and len(cases) < 90
    met = counted(cases)
    for (i, one), (j, other) in itertools.combinations(enumerate(factors.values()), 2):
        for a, b in itertools.product(one, other):
            assert met[(i, a), (j, b)] >= 3, (a, b)


@settings(deadline=None)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.integers(1, 3))
def test_pairwise(sizes: list[int], times: int) -> None:
    factors = {str(i): range(size) for i, size in enumerate(sizes)}
    cases = pairwise(factors, times)
    assert cases == pairwise(factors, times)
    assert len(set(cases)) == len(cases)
    product = list(itertools.product(*factors.values()))
    assert set(cases) <= set(product)
    met = counted(cases)
    for pair, possible in counted(product).items():
        assert met[pair] >= min(times, possible)


def test_folders_that_a_test_changes_are_noticed(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    path = folders("gpt2")
    assert folders("gpt2") == path and folders("gpt2", n_classes=2) != path
    copy = folders.copy(tmp_path / "copy", "gpt2")
    (copy / "config.json").write_text("{}")
    folders.check()
    (path / "config.json").write_text("{}")
    for use in (folders.check, lambda: folders("gpt2")):
        with pytest.raises(AssertionError, match="take a copy"):
            use()
