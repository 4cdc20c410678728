"""The package's layers: imports go down only, and prediction imports no training."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from models import gpt2_folder

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")
def test_the_contract() -> None:
    """import-linter reads it from pyproject.toml; imports for type checkers count."""
    command = shutil.which("lint-imports") or str(Path(sys.executable).with_name("lint-imports"))
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def imported_by(code: str, folder: Path) -> set[str]:
    """The package's modules that a fresh interpreter has imported after ``code``; run outside of the source tree."""
    code += "\nimport sys; print(*[name for name in sys.modules if name.startswith('pyllmclf')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_a_classifier_imports_no_training(tmp_path: Path) -> None:
    """To load, predict, evaluate, save and export."""
    folder, saved, exported = gpt2_folder(tmp_path / "model"), tmp_path / "saved", tmp_path / "exported"
    modules = imported_by(
        "import pyllmclf\n"
        f"classifier = pyllmclf.load({str(folder)!r})\n"
        "classifier.predict(['a text'])\n"
        "classifier.evaluate((['a', 'b'], classifier.classes_[:2]))\n"
        f"classifier.save({str(saved)!r})\n"
        f"classifier.export({str(exported)!r})\n"
        f"pyllmclf.load({str(saved)!r}).predict(['a text'])\n",
        tmp_path,
    )
    assert "pyllmclf.classifier.checkpoint" in modules
    upper = ("pyllmclf.training", "pyllmclf.api", "pyllmclf.cli", "pyllmclf.experiments", "pyllmclf.sklearn")
    assert [name for name in modules if name.startswith(upper)] == []


def test_packing_imports_no_triton(tmp_path: Path) -> None:
    code = "import sys; sys.modules['triton'] = None; import pyllmclf.data.packing"
    assert not [name for name in imported_by(code, tmp_path) if name.startswith("pyllmclf.kernels.attention")]


def imports_of(file: Path) -> set[str]:
    """Top-level names that a Python file imports from outside of its folder."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level if node.level else str(node.module).partition(".")[0])
    return names


@pytest.mark.parametrize("file", sorted((ROOT / "kernels").glob("*.py")), ids=lambda file: file.name)
def test_kernels_import_torch_and_triton_alone(file: Path) -> None:
    assert imports_of(file) - set(sys.stdlib_module_names) <= {"torch", "triton", "numpy", "."}


@pytest.mark.parametrize("file", sorted((ROOT / "csrc" / "cpu").iterdir()), ids=lambda file: file.name)
def test_the_core_includes_its_own_headers_alone(file: Path) -> None:
    """And those of C, the compiler and OpenMP; no torch, no Python, nothing of the standard library but ``new``."""
    included = re.findall(r'^#include ([<"].*?[>"])', file.read_text(encoding="utf-8"), re.MULTILINE)
    plain = r'"[\w/]+\.h"|<[a-z]+\.h>|<c(stddef|stdint)>|<new>'
    if file.name == "dispatch.cpp":  # compiled once, for any processor
        plain += "|<(cstdlib|stdexcept|string|sys/syscall.h)>"
    assert [name for name in included if not re.fullmatch(plain, name)] == []


# A function that is longer does several things; signature and docstring are not counted.
MOST_LINES = 80


@pytest.mark.parametrize("folder", ["pyllmclf", "kernels"])
def test_no_function_is_long(folder: str) -> None:
    long = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                if body and (body[-1].end_lineno or 0) - body[0].lineno + 1 > MOST_LINES:
                    long.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert long == []
