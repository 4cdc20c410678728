"""Forked children of a process that has predicted: they answer, with the same bits, and train."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

PROGRAM = """
import multiprocessing, os, sys
import pyllmclf, torch

texts = [f"where is parcel {i}? " * (1 + i % 9) for i in range(24)]
labels = [str(i % 2) for i in range(24)]
options = {"weights": "random", "trainable": "all", "epochs": 1, "progress": False}
context = multiprocessing.get_context("fork")

def in_child(work):
    queue = context.Queue()
    process = context.Process(target=lambda: queue.put(work()))
    process.start()
    answer = queue.get(timeout=60)
    process.join()
    return answer

def predict():
    return classifier.logits(texts).tobytes(), torch.get_num_threads()

def train():
    classifier = pyllmclf.finetune("gpt2-nano", (texts, labels), **options).classifier
    return classifier.logits(texts).tobytes()

if sys.argv[2] == "load":
    # As gunicorn --preload: opened in the parent, which computes nothing.
    classifier = pyllmclf.load(sys.argv[1])
    children = [in_child(predict) for _ in range(2)]
    assert children[0] == children[1] == predict()
else:
    classifier = pyllmclf.load(sys.argv[1])
    (torch.ones(512, 512) @ torch.ones(512, 512)).sum()
    expected, trained = predict(), train()
    assert in_child(predict) == expected == predict()
    assert in_child(lambda: in_child(predict)) == expected
    assert in_child(train) == trained
print("done", torch.get_num_threads())
"""


@pytest.mark.parametrize("how", ["load", "predict"])
def test_forked_child(how: str, tmp_path: Path) -> None:
    import pyllmclf

    texts = ["where is my parcel", "I was charged twice", "log in", "a"]
    result = pyllmclf.finetune("gpt2-nano", (texts, ["a", "b", "a", "b"]), weights="random", epochs=1, progress=False)
    result.classifier.save(tmp_path / "saved")
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "saved"), how]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done 2\n"
    assert "parallelism" not in done.stderr  # the tokenizers library's warning of a fork
