"""The installed package: native core, configuration report, public names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata

import pytest
import torch

import pyllmclf
from pyllmclf import _C, environment


def test_version_is_the_same_everywhere() -> None:
    assert pyllmclf.__version__ == metadata.version("pyllmclf") == _C.build_config()["version"]


def test_public_names_exist() -> None:
    for name in pyllmclf.__all__:
        assert getattr(pyllmclf, name) is not None
        assert name in dir(pyllmclf)
    with pytest.raises(AttributeError, match="nonsense"):
        pyllmclf.nonsense  # noqa: B018


def test_the_import_is_light() -> None:
    code = "import sys, pyllmclf; print({'torch', 'pandas', 'sklearn', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_kernels_are_installed() -> None:
    import pyllmclf.kernels

    assert pyllmclf.kernels.__doc__


def test_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    config = environment.config()
    assert config["native"]["simd"] in ("amx-bf16", "avx512-bf16", "x86-64-v4", "x86-64-v3", "baseline")
    assert (config["native"]["cuda"] is None) == (config["native"]["cuda_architectures"] == [])
    assert config["cuda_devices"] or config["cuda_unavailable"]
    assert config["ops"]["attention"]["cpu"]["auto"] == "native" and config["ops"]["gelu"]["cpu"]["why"]
    pyllmclf.show_config()
    shown = capsys.readouterr().out
    for part in (config["torch"], config["native"]["simd"], "triton", "CUDA part", "attention"):
        assert part in shown


def info_with(simd: str) -> subprocess.CompletedProcess[str]:
    """What ``pyllmclf info --json`` does in a process of its own where PYLLMCLF_SIMD is set."""
    command = [sys.executable, "-m", "pyllmclf", "info", "--json"]
    environ = {**os.environ, "PYLLMCLF_SIMD": simd}
    folder = tempfile.gettempdir()  # not the repository, whose folder pyllmclf may have no native core
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, cwd=folder)


def test_the_simd_build_is_chosen_by_the_environment() -> None:
    found = json.loads(info_with("baseline").stdout)
    assert found["native"]["simd"] == "baseline"
    refused = info_with("fastest")
    assert refused.returncode == 2 and refused.stdout == ""
    assert "PYLLMCLF_SIMD='fastest' doesn't run here; choose one of" in refused.stderr


def test_amx_runs_on_request_alone() -> None:
    assert json.loads(info_with("").stdout)["native"]["simd"] != "amx-bf16"
    asked = info_with("amx-bf16")
    if torch.cpu.get_capabilities().get("amx_bf16", False):
        assert asked.returncode == 2 or json.loads(asked.stdout)["native"]["simd"] == "amx-bf16"
    else:
        assert asked.returncode == 2
        assert "PYLLMCLF_SIMD='amx-bf16' doesn't run here" in asked.stderr


def test_errors_carry_exit_codes() -> None:
    codes = {error.__name__: error.exit_code for error in pyllmclf.PyllmclfError.__subclasses__()}
    expected = {"UsageError": 2, "DataError": 3, "ModelError": 4, "ResourceError": 5, "NonFiniteError": 6}
    assert codes == {**expected, "PreemptedError": 75}
