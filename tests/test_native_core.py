"""Builds the native core once: runs its C++ tests, inspects its code and nvcc's, runs the CUDA ops in the emulator."""

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
from pyllmclf.ops.backends import native_cpu, native_cuda

ROOT = Path(__file__).parent.parent
SIMD_BUILDS = ["baseline", "x86-64-v3", "x86-64-v4", "avx512-bf16", "amx-bf16"]


def cmake(*arguments: str | Path) -> str:
    """Runs cmake and returns its output."""
    done = subprocess.run(["cmake", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def cuobjdump(*arguments: str | Path) -> str:
    """Runs cuobjdump, from CUDA or from the triton package, and returns its output."""
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


def configured(folder: Path, **changes: str) -> Path:
    """A build folder of the core."""
    import pybind11

    definitions = {
        "CMAKE_BUILD_TYPE": "Release",
        "PYLLMCLF_EXTENSION": "OFF",
        "PYLLMCLF_TESTS": "ON",
        "PYLLMCLF_EMULATED_CUDA": "ON",
        "PYLLMCLF_PTXAS_VERBOSE": "ON",
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "Python_EXECUTABLE": sys.executable,
    } | changes
    cmake("-S", ROOT, "-B", folder, "-GNinja", *(f"-D{name}={value}" for name, value in definitions.items()))
    return folder


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One build folder for all quick tests of this file; each builds its own targets in it.

    Little optimization: it compiles in two thirds of the time. The installed core has all of it. And only the SIMD
    builds that run here, up to the one that the installed core has chosen.
    """
    unused = SIMD_BUILDS[SIMD_BUILDS.index(native_cpu.simd_level()) + 1 :]
    left_out = {f"PYLLMCLF_HAS_{name.replace('-', '_').upper()}": "OFF" for name in unused}
    return configured(tmp_path_factory.mktemp("native"), CMAKE_CXX_FLAGS_RELEASE="-O1", **left_out)


def ctest(build: Path, *options: str) -> str:
    """Runs the built C++ tests and returns the output."""
    done = subprocess.run(
        ["ctest", "--test-dir", build, "--output-on-failure", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_core_without_python(build: Path) -> None:
    """Every CPU op in each SIMD build, the model of AMX's tiles, the token store and the packer."""
    cmake("--build", build, "--target", "test_data", "test_tiles", "test_cpu_ops")
    assert "out of 3" in ctest(build, "--exclude-regex", "test_cuda_ops")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_tile_instructions_are_in_the_build_for_amx_alone(tmp_path: Path) -> None:
    """A processor without AMX stops at any of them."""
    build = configured(tmp_path, CMAKE_CXX_FLAGS_RELEASE="-O1")
    cmake("--build", build, "--target", "pyllmclf_core")
    instruction = re.compile(r"\b(?:[ls][dt]tilecfg|tile(?:loadd\w*|stored|zero|release)|tdp\w+ps)\b")
    found: dict[str, set[str]] = {}
    for target in (build / "CMakeFiles").glob("pyllmclf_*.dir"):
        code = sorted(target.rglob("*.o"))
        if not code:  # the CUDA part is not built here
            continue
        listed = subprocess.run(["objdump", "-d", *code], capture_output=True, text=True, check=True).stdout
        found[target.stem] = set(instruction.findall(listed))
    of_amx = found.pop("pyllmclf_amx_bf16", None)
    assert {"pyllmclf_baseline", "pyllmclf_core"} <= set(found) and not set().union(*found.values())
    if of_amx is None:
        pytest.skip("the compiler or the processor has no AMX")
    assert of_amx == {"ldtilecfg", "tilerelease", "tilezero", "tileloadd", "tilestored", "tdpbf16ps"}


@pytest.mark.slow
def test_the_optimized_core_without_python(tmp_path: Path) -> None:
    """As it is installed, and every CUDA kernel in the emulator, which the tests below call from Python."""
    folder = configured(tmp_path)
    cmake("--build", folder)
    assert "out of 4" in ctest(folder)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_cuda_kernels_for_each_architecture(tmp_path: Path) -> None:
    """Code for sm_80 and sm_90 and PTX, no spills, and accesses of 16 bytes."""
    build = configured(tmp_path)
    printed = cmake("--build", build, "--target", "pyllmclf_cuda")
    functions = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", printed)
    assert len(functions) > 200
    assert set(functions) == {("0", "0", "0")}
    for name in ("cross_entropy", "embedding", "gelu", "layer_norm", "sums"):
        code = next(build.rglob(f"{name}.cu.o"))
        listed = cuobjdump("--list-elf", "--list-ptx", code)
        assert re.search(r"sm_80\.cubin", listed) and re.search(r"sm_90\.cubin", listed), name
        assert re.search(r"sm_90\.ptx", listed), name
        if name not in ("cross_entropy", "sums"):  # these read little: logits, and the partial sums of blocks
            sass = cuobjdump("--dump-sass", code)
            assert "LDG.E.128" in sass and "STG.E.128" in sass, name


@pytest.mark.skipif(not native_cuda.BUILT, reason="the native core was built without nvcc")
@pytest.mark.skipif(torch.cuda.is_available(), reason="fails on purpose, for want of a GPU")
def test_cuda_errors_name_kernel_and_shape() -> None:
    with pytest.raises(RuntimeError, match="gelu_forward on 3 x 8: "):
        native_cuda._C.cuda_gelu_forward(0, 0, 0, 3, 8, True, (0, 0, 0))


@pytest.fixture(scope="module")
def emulated(build: Path) -> ModuleType:
    """The CUDA ops of ``pyllmclf._C``, run by the emulator on tensors in the CPU's memory."""
    cmake("--build", build, "--target", "_emulated_cuda")
    spec = importlib.util.spec_from_file_location("_emulated_cuda", next(build.rglob("_emulated_cuda*.so")))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", cuda_ops.DTYPES, ids=str)
@pytest.mark.parametrize("case", cuda_ops.CASES, ids=str)
def test_cuda_ops_emulated(
    case: cuda_ops.Case, dtype: torch.dtype, emulated: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path from ``pyllmclf.ops`` to the kernels and back, without a GPU."""
    monkeypatch.setattr(native_cuda, "_C", emulated)
    monkeypatch.setattr(native_cuda, "BUILT", True)
    monkeypatch.setattr(native_cuda, "serves", lambda *tensors: True)
    monkeypatch.setattr(native_cuda, "_place", lambda x: (native_cuda.DTYPES[x.dtype], 0, 0))
    monkeypatch.setattr(dispatch, "kernels", lambda x: native_cuda)
    for op in ("cross_entropy", "embedding", "gelu", "layer_norm"):
        monkeypatch.setitem(dispatch.TABLE, op, {"cpu": dispatch.Choice("native", "emulated")})
    cuda_ops.check(case, dtype)
