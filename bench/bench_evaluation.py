"""Classifying all 5,574 texts of SMS Spam with GPT-2 124M (random weights), from texts to labels.

Ours in the dtype that "auto" takes, in fp32 and in int8; beside it Hugging Face's pipeline in fp32 and bf16,
onnxruntime in fp32 and int8, and OpenVINO in the precision that it chooses. Each peer takes the texts sorted by length,
in batches of the size that is fastest on a sample. All sides classify a part of the texts in turn, until all parts are
classified.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROWS, Row, Work
from steps import multiplies_bf16

from pyllmclf import finetune, load
from pyllmclf.data.sources import read_data

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
SAMPLE = 256
PARTS = 8
Classify = Callable[[list[str]], list[str]]
OURS = "pyllmclf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved classifier that all sides open."""
    path = tmp_path_factory.mktemp("classifier") / "saved"
    texts = ["spam spam", "ham"]
    result = finetune("gpt2", (texts, texts), weights="random", trainable="head", epochs=1, progress=False)
    # With the initial head, rounding alone would decide the labels.
    with torch.no_grad():
        weight = result.classifier.state.model.head.weight
        weight.normal_(generator=torch.Generator().manual_seed(3))
        weight[1] = -weight[0]
    result.classifier.save(path)
    return path


def of_pipeline(folder: Path, device: torch.device, dtype: torch.dtype) -> Callable[[int], Classify]:
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(folder), device=device, dtype=dtype)
    return lambda size: lambda texts: [found["label"] for found in classify(texts, batch_size=size)]


def in_batches(folder: Path, run: Callable[[np.ndarray, np.ndarray], np.ndarray], size: int) -> Classify:
    """Classifies padded batches by a graph."""
    classifier = load(folder, dtype="float32")

    def classify(texts: list[str]) -> list[str]:
        store, logits = classifier.packer(texts).store, []
        for begin in range(0, len(texts), size):
            rows = [store[i] for i in range(begin, min(begin + size, len(texts)))]
            longest = max(map(len, rows))
            ids = np.array([np.pad(row, (0, longest - len(row))) for row in rows], dtype=np.int64)
            mask = np.array([np.arange(longest) < len(row) for row in rows], dtype=np.int64)
            logits.append(run(ids, mask))
        return [str(classifier.classes_[best]) for best in np.concatenate(logits).argmax(axis=1)]

    return classify


def of_onnxruntime(graph: Path, folder: Path) -> Callable[[int], Classify]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]

    return lambda size: in_batches(folder, run, size)


def of_openvino(graph: Path, folder: Path) -> Callable[[int], Classify]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(str(graph), "CPU", settings)

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return model({"input_ids": ids, "attention_mask": mask})["logits"]

    return lambda size: in_batches(folder, run, size)


def peers(folder: Path, device: torch.device) -> dict[str, Callable[[int], Classify]]:
    """Takes a batch size each; a peer that is not installed is left out."""
    found = {"pipeline": of_pipeline(folder, device, torch.float32)}
    if multiplies_bf16(device):
        found["pipeline, bf16"] = of_pipeline(folder, device, torch.bfloat16)
    if device.type != "cpu" or importlib.util.find_spec("onnxruntime") is None:
        return found
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graphs = folder.with_name("onnx")
    load(folder).export(graphs, format="onnx")
    quantized = graphs / "int8.onnx"
    quantize_dynamic(graphs / "model.onnx", quantized, per_channel=True, weight_type=QuantType.QInt8)
    found["onnxruntime"] = of_onnxruntime(graphs / "model.onnx", folder)
    found["onnxruntime, int8"] = of_onnxruntime(quantized, folder)
    if importlib.util.find_spec("openvino") is not None:
        found["OpenVINO"] = of_openvino(graphs / "model.onnx", folder)
    return found


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def fastest(make: Callable[[int], Classify], sample: list[str], device: torch.device) -> int:
    """The batch size that classifies the sample fastest."""
    by_size = {}
    for size in BATCH_SIZES:
        classify = make(size)
        classify(sample[:size])
        by_size[size] = seconds(lambda classify=classify: classify(sample), device)
    return min(by_size, key=by_size.__getitem__)


def test_evaluation(folder: Path, benchmark, device: torch.device) -> None:
    texts = sorted(read_data("sms_spam:full", split="all").texts, key=len)
    sample = texts[:: len(texts) // SAMPLE]
    ours = {OURS: load(folder, device=str(device)), f"{OURS}, fp32": load(folder, device=str(device), dtype="float32")}
    if device.type == "cpu":
        ours[f"{OURS}, int8"] = load(folder, dtype="int8", calibration=sample)
    sides: dict[str, Classify] = {name: classifier.predict for name, classifier in ours.items()}
    sizes = {}
    for name, make in peers(folder, device).items():
        sizes[name] = fastest(make, sample, device)
        sides[name] = make(sizes[name])
    for classify in sides.values():
        classify(sample[-64:])
    spent, labels = dict.fromkeys(sides, 0.0), {name: list[str]() for name in sides}
    parts = [texts[part::PARTS] for part in range(PARTS)]
    for part in parts:
        for name, classify in sides.items():
            spent[name] += seconds(lambda: labels[name].extend(map(str, classify(part))), device)  # noqa: B023, run at once
    benchmark.pedantic(lambda: sides[OURS](sample), rounds=1, iterations=1)
    exact = labels[f"{OURS}, fp32"]
    assert len(set(exact)) == 2 and labels["pipeline"] == exact
    tokens = float(ours[OURS].packer(texts).real_lengths.sum())
    for name in ours:
        for other in [*sizes, f"{OURS}, fp32"]:
            if name == other:
                continue
            agree = [np.mean(np.array(labels[side]) == np.array(exact)) for side in (name, other)]
            note = f"labels as in fp32: {agree[0]:.2%}, baseline {agree[1]:.2%}"
            if other in sizes:
                note += f"; batches of {sizes[other]}"
            row = Row(
                group="evaluation",
                name=f"classifying {len(texts):,} texts, {name}",
                baseline=other,
                plain=spent[other],
                ours=spent[name],
                rounds=PARTS,
                work=Work(tokens, "tokens/s"),
                note=note,
            )
            ROWS.append(row)
    benchmark.extra_info.update(ratio=spent["pipeline"] / spent[OURS])
