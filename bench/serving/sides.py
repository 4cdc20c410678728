"""The servers of the comparison: how each is started, and the venv that it needs."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RUNNERS = Path(__file__).parent / "servers"
VENVS = Path.home() / ".cache/pyllmclf/servers"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
START_SECONDS = 900.0
END_SECONDS = 15.0
HOST = "127.0.0.1"
SERVED_NAME = "classifier"


class ServerError(Exception):
    """A server that can't run, in one sentence."""


@dataclass(frozen=True)
class Side:
    """One server with its options.

    Attributes
    ----------
    title : str
    arguments : callable
        Command-line arguments after the interpreter, for the folder of a model and a port.
    venv : str or None
        Venv, made from ``requirements-<name>.txt``; ``None`` means this interpreter.
    packages : tuple of str
        Distributions whose versions are recorded.
    as_list : bool
        Whether the server takes texts in a list only.
    default : bool
        Whether it runs unless other sides are named.
    environment : tuple of pairs
    """

    title: str
    arguments: Callable[[Path, int], list[str]]
    venv: str | None
    packages: tuple[str, ...]
    as_list: bool = False
    default: bool = True
    environment: tuple[tuple[str, str], ...] = ()


def pyllmclf(dtype: str, *more: str) -> Side:
    """``pyllmclf serve``; in int8 with calibration texts."""

    def arguments(model: Path, port: int) -> list[str]:
        calibration = ["--calibration", str(model / "calibration.csv")] if dtype == "int8" else []
        serve = ["-m", "pyllmclf", "serve", f"{SERVED_NAME}={model / 'pyllmclf'}", "--host", HOST, "--port", str(port)]
        return [*serve, "--dtype", dtype, "--no-access-log", *calibration, *more]

    return Side(f"pyllmclf serve, {dtype}", arguments, None, ("pyllmclf", "torch", "starlette", "uvicorn"))


def infinity(title: str, files: str, *options: str, default: bool = False, step: int = 1) -> Side:
    """infinity-emb with these options, on one of the model's folders."""

    def arguments(model: Path, port: int) -> list[str]:
        served = [
            "v2",
            "--model-id",
            str(model / files),
            "--served-model-name",
            SERVED_NAME,
            "--host",
            HOST,
            "--port",
            str(port),
            "--device",
            "cpu",
        ]
        return [str(RUNNERS / "run_infinity.py"), *served, "--log-level", "warning", *options]

    packages = ("infinity-emb", "torch", "transformers", "optimum", "onnxruntime", "uvicorn")
    environment = (("INFINITY_STEP", str(step)),)
    return Side(f"infinity-emb, {title}", arguments, "infinity", packages, True, default, environment)


def runner(name: str, title: str, *options: str, default: bool = True) -> Side:
    """A runner of this folder around transformers' pipeline."""

    def arguments(model: Path, port: int) -> list[str]:
        return [str(RUNNERS / f"run_{name}.py"), str(model / "huggingface"), "--port", str(port), *options]

    first = {"pipeline": "starlette", "litserve": "litserve"}[name]
    return Side(title, arguments, name, (first, "torch", "transformers", "uvicorn"), default=default)


def fake(wait: str) -> Side:
    return Side(
        f"fake, {wait} ms",
        lambda model, port: [str(RUNNERS / "run_fake.py"), "--port", str(port), "--wait-ms", wait],
        None,
        (),
        default=False,
    )


TORCH = ("--engine", "torch", "--no-bettertransformer", "--no-compile", "--batch-size", "2")
ONNX = ("--engine", "optimum", "--no-bettertransformer", "--no-compile", "--batch-size", "8")
FP32, BF16, INT8 = (("--dtype", dtype) for dtype in ("float32", "bfloat16", "int8"))
ONE, EIGHT = ("--step", "1"), ("--step", "8")
SIDES = {
    "pyllmclf-float32": pyllmclf("float32"),
    "pyllmclf-bfloat16": pyllmclf("bfloat16"),
    "pyllmclf-int8": pyllmclf("int8"),
    "infinity-torch-bfloat16": infinity("torch, bf16", "huggingface", *TORCH, *BF16, default=True),
    "infinity-torch-float32": infinity("torch, fp32", "huggingface", *TORCH, *FP32),
    "infinity-torch-int8": infinity("torch, int8", "huggingface", *TORCH, *INT8),
    "infinity-onnx-int8": infinity("ONNX, int8", "onnx-int8", *ONNX, default=True),
    "infinity-onnx-float32": infinity("ONNX, fp32", "onnx", *ONNX),
    "pipeline-bfloat16": runner("pipeline", "pipeline behind Starlette, bf16", *BF16, *ONE),
    "pipeline-bfloat16-8": runner("pipeline", "the same, 8 texts together", *BF16, *EIGHT, default=False),
    "pipeline-float32": runner("pipeline", "pipeline behind Starlette, fp32", *FP32, *ONE, default=False),
    "litserve-bfloat16": runner("litserve", "pipeline behind LitServe, bf16", *BF16, *ONE, default=False),
    "litserve-float32": runner("litserve", "pipeline behind LitServe, fp32", *FP32, *ONE, default=False),
    "fake": fake("3"),
}
"""On one core without padding, texts computed one by one are as fast as together, and wait less: peers get that.

infinity-emb's int8 on torch changed one label in six to nine; it runs only if it is named.
"""


def interpreter(side: Side, venvs: Path) -> Path:
    """Python that runs a side; its venv is made if it is missing.

    Raises
    ------
    ServerError
        If the venv can't be made.
    """
    if side.venv is None:
        return Path(sys.executable)
    folder = venvs / side.venv
    if not (folder / "complete").exists():
        make_venv(folder, RUNNERS / f"requirements-{side.venv}.txt")
    return folder / "bin/python"


def make_venv(folder: Path, requirements: Path) -> None:
    """Makes a venv with the requirements; a file ``complete`` says that all are there."""
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {requirements.name} into {folder}", file=sys.stderr)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin/pip"), "install", "--quiet", "-r", str(requirements)],
    ):
        if subprocess.run(command, check=False).returncode:
            raise ServerError(f"{shlex.join(command)} failed")
    (folder / "complete").touch()


def versions(side: Side, python: Path) -> dict[str, str]:
    """Versions of a side's packages and of its Python."""
    code = "import importlib.metadata as m, platform, sys; print('python', platform.python_version())\n"
    code += "for name in sys.argv[1:]: print(name, m.version(name))"
    printed = subprocess.run([python, "-c", code, *side.packages], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in printed.splitlines())


@contextmanager
def started(side: Side, python: Path, model: Path, port: int, core: int) -> Iterator[int]:
    """Runs a server on one core with one thread, in an empty folder; ends it and its children.

    Yields the number of its process group, for :func:`cpu_seconds`.

    Raises
    ------
    ServerError
        If it ends, or doesn't answer within ``START_SECONDS``; with the last lines of its output.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" or side.venv is None}
    with tempfile.TemporaryDirectory() as folder:
        changed = dict.fromkeys(THREADS, "1") | {"HF_HUB_OFFLINE": "1", "HF_HOME": folder} | dict(side.environment)
        log = Path(folder, "log.txt")
        with log.open("w") as output:
            process = subprocess.Popen(
                [python, *side.arguments(model.resolve(), port)],
                cwd=folder,
                env=kept | changed,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            )
        try:
            if not _ready(process, port):
                raise ServerError(f"{side.title} didn't start:\n{log.read_text(errors='replace')[-3000:]}")
            yield process.pid
        finally:
            _end(process)


def cpu_seconds(group: int) -> float:
    """CPU seconds that the processes of a group have used, as Linux counts them."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _ready(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2) as answer:
                return answer.status == 200
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process with its group: it is the leader of a session of its own."""
    for each in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, each)
        except ProcessLookupError:
            break
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
