"""Builds ``pyllmclf._C`` with CMake and Ninja; everything else is declared in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs ``cmake --build`` and lets it write the extension where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        build_dir = Path(self.build_temp).resolve() / "cmake"
        build_dir.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "--fresh",  # an isolated build's ninja is gone by the next one, and a new nvcc must be found
            f"-S{ROOT}",
            f"-B{build_dir}",
            "-GNinja",
            f"-DCMAKE_BUILD_TYPE={os.environ.get('PYLLMCLF_BUILD_TYPE', 'Release')}",
            f"-DPYLLMCLF_OUTPUT_DIR={output.parent}",
            f"-DPYLLMCLF_VERSION={self.distribution.get_version()}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPython_EXECUTABLE={sys.executable}",
            *os.environ.get("PYLLMCLF_CMAKE_ARGS", "").split(),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build_dir)], check=True)


setup(ext_modules=[Extension("pyllmclf._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
