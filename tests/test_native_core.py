"""The tests of the native core that need no Python (``tests/native``), and what nvcc made of the CUDA kernels."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import cuda_ops
import pytest
import torch

from pyllmclf.ops import dispatch
from pyllmclf.ops.backends import native_cuda

ROOT = Path(__file__).parent.parent


def cmake(*arguments: str | Path) -> str:
    """Runs cmake and returns what it printed."""
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def cuobjdump(*arguments: str | Path) -> str:
    """Runs cuobjdump, CUDA's or the one in the triton package, and returns what it printed."""
    program = shutil.which("cuobjdump")
    if program is None:
        spec = importlib.util.find_spec("triton")
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent / "backends" / "nvidia" / "bin"
        program, path = str(folder / "cuobjdump"), f"{folder}{os.pathsep}{os.environ['PATH']}"
    else:
        path = os.environ["PATH"]
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def configure(folder: Path, *definitions: str) -> str:
    return cmake("-S", ROOT, "-B", folder, "-GNinja", "-DCMAKE_BUILD_TYPE=Release", *definitions)


def test_the_core_without_python(tmp_path: Path) -> None:
    """Every CPU op in each SIMD build, every CUDA kernel in the emulator, the token store and the packer."""
    configure(tmp_path, "-DPYLLMCLF_EXTENSION=OFF", "-DPYLLMCLF_TESTS=ON")
    cmake("--build", tmp_path)
    done = subprocess.run(
        ["ctest", "--test-dir", tmp_path, "--output-on-failure"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "out of 3" in done.stdout


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_cuda_kernels_for_each_architecture(tmp_path: Path) -> None:
    """Code for sm_80 and sm_90 and PTX, no spills, and accesses of 16 bytes."""
    configure(tmp_path, "-DPYLLMCLF_EXTENSION=OFF", "-DPYLLMCLF_PTXAS_VERBOSE=ON")
    printed = cmake("--build", tmp_path, "--target", "pyllmclf_cuda")
    functions = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(functions) > 200
    assert set(functions) == {("0", "0", "0")}
    for name in ("cross_entropy", "embedding", "gelu", "layer_norm", "sums"):
        code = next(tmp_path.rglob(f"{name}.cu.o"))
        listed = cuobjdump("--list-elf", "--list-ptx", code)
        assert re.search(r"sm_80\.cubin", listed) and re.search(r"sm_90\.cubin", listed), name
        assert re.search(r"sm_90\.ptx", listed), name
        if name not in ("cross_entropy", "sums"):  # these read little: logits, and the sums of some blocks
            sass = cuobjdump("--dump-sass", code)
            assert "LDG.E.128" in sass and "STG.E.128" in sass, name


@pytest.mark.skipif(not native_cuda.BUILT, reason="the native core was built without nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="fails on purpose, for want of a GPU")
def test_cuda_errors_name_kernel_and_shape() -> None:
    with pytest.raises(RuntimeError, match="gelu_forward on 3 x 8: "):
        native_cuda._C.cuda_gelu_forward(0, 0, 0, 3, 8, True, (0, 0, 0))


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The CUDA ops of ``pyllmclf._C``, run by the emulator on tensors in the CPU's memory."""
    import pybind11

    folder = tmp_path_factory.mktemp("emulated")
    definitions = f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"
    configure(folder, "-DPYLLMCLF_TESTS=ON", "-DPYLLMCLF_CUDA=OFF", *definitions)
    cmake("--build", folder, "--target", "_emulated_cuda")
    spec = importlib.util.spec_from_file_location("_emulated_cuda", next(folder.rglob("_emulated_cuda*.so")))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", cuda_ops.DTYPES, ids=str)
@pytest.mark.parametrize("case", cuda_ops.CASES, ids=str)
def test_cuda_ops_emulated(
    case: cuda_ops.Case, dtype: torch.dtype, emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way from ``pyllmclf.ops`` to the kernels and back, without a GPU."""
    monkeypatch.setattr(native_cuda, "_C", emulated)
    monkeypatch.setattr(native_cuda, "BUILT", True)
    monkeypatch.setattr(native_cuda, "serves", lambda *tensors: True)
    monkeypatch.setattr(native_cuda, "_place", lambda x: (native_cuda.DTYPES[x.dtype], 0, 0))
    monkeypatch.setattr(dispatch, "kernels", lambda x: native_cuda)
    for op in ("cross_entropy", "embedding", "gelu", "layer_norm"):
        monkeypatch.setitem(dispatch.TABLE, op, {"cpu": dispatch.Choice("native", "emulated")})
    cuda_ops.check(case, dtype)
