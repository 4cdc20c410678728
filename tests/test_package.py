"""The installed package: native core, configuration report, public names."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

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
    assert config["native"]["simd"] in ("avx512-bf16", "x86-64-v4", "x86-64-v3", "baseline")
    assert (config["native"]["cuda"] is None) == (config["native"]["cuda_architectures"] == [])
    assert config["cuda_devices"] or config["cuda_unavailable"]
    assert config["ops"]["attention"]["cpu"]["auto"] == "native" and config["ops"]["gelu"]["cpu"]["why"]
    pyllmclf.show_config()
    shown = capsys.readouterr().out
    for part in (config["torch"], config["native"]["simd"], "triton", "CUDA part", "attention"):
        assert part in shown


def test_errors_carry_exit_codes() -> None:
    codes = {error.__name__: error.exit_code for error in pyllmclf.PyllmclfError.__subclasses__()}
    expected = {"UsageError": 2, "DataError": 3, "ModelError": 4, "ResourceError": 5, "NonFiniteError": 6}
    assert codes == {**expected, "PreemptedError": 75}
