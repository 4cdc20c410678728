"""The classifiers that the servers are compared with: trained once, and written in the form of each server.

``python bench/serving/models.py FOLDER [minilm gpt2]`` makes them; what is there already stays.

======================  ==============================================================================================
``pyllmclf``            saved by pyllmclf
``huggingface``         exported for transformers, whose tokenizer truncates at 256 tokens
``onnx``                the same, with ``model.onnx``
``onnx-int8``           the same, with ``model_quantized.onnx``: onnxruntime's dynamic quantisation, a scale per channel
``calibration.csv``     training texts of SMS Spam and IMDb, for pyllmclf's int8
``reference.json``      labels of a quarter of the texts that are sent, by text, as pyllmclf finds them in fp32
======================  ==============================================================================================
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyllmclf import Classifier

MAX_LENGTH = 256
CALIBRATION_TEXTS = 512
TRAINING_TEXTS = 500
REFERENCE_STRIDE = 4
COMMON: dict[str, Any] = {"max_length": MAX_LENGTH, "dtype": "float32", "progress": False, "baselines": "off"}
GPT2_TEXTS = 64


def minilm() -> Classifier:
    """all-MiniLM-L6-v2 with a head on the pooled first token, which is what transformers' class computes.

    Its classes are those of both data sets: ham, spam, negative, positive.
    """
    from pyllmclf import finetune

    short, long = training_texts()
    drawn = [*short[:TRAINING_TEXTS], *long[:TRAINING_TEXTS]]
    data = [text for text, _ in drawn], [label for _, label in drawn]
    return finetune("minilm", data, trainable="head", pooling="first", validation=False, **COMMON).classifier


def gpt2() -> Classifier:
    """GPT-2 124M with random weights and a trained last block."""
    from pyllmclf import finetune, load_dataset

    data = load_dataset("sms_spam")["train"]
    texts = (data.texts[:GPT2_TEXTS], data.labels[:GPT2_TEXTS])
    settings = {"weights": "random", "trainable": "last_block", "epochs": 1, "validation": False}
    return finetune("gpt2", texts, **settings, **COMMON).classifier


MODELS: dict[str, Callable[[], Classifier]] = {"minilm": minilm, "gpt2": gpt2}


def make(name: str, folder: Path) -> Path:
    """Makes the files of a model under ``folder / name``, unless they are there; returns that folder."""
    target = folder / name
    if (target / "reference.json").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    classifier = MODELS[name]()
    classifier.save(target / "pyllmclf")
    classifier.export(target / "huggingface", "huggingface")
    classifier.export(target / "onnx", "onnx")
    quantize(target / "onnx", target / "onnx-int8")
    write_calibration(target / "calibration.csv")
    write_reference(classifier, target / "reference.json")
    return target


def quantize(graph: Path, folder: Path) -> None:
    """Copies the folder of a graph with its weights in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    shutil.copytree(graph, folder, ignore=shutil.ignore_patterns("*.onnx", "*.onnx.data"))
    quantized = folder / "model_quantized.onnx"
    quantize_dynamic(graph / "model.onnx", quantized, per_channel=True, weight_type=QuantType.QInt8)


def training_texts() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Shuffled training texts of both data sets with their labels, none of which is sent."""
    from load import CHARACTERS, is_test

    from pyllmclf import load_dataset

    messages, reviews = load_dataset("sms_spam:full")["all"], load_dataset("imdb")["train"]
    short = [(text, str(label)) for text, label in zip(messages.texts, messages.labels, strict=True)]
    short = [each for each in short if not is_test(each[0])]
    long = [(text[:CHARACTERS], str(label)) for text, label in zip(reviews.texts, reviews.labels, strict=True)]
    drawn = random.Random(1)
    drawn.shuffle(short)
    drawn.shuffle(long)
    return short, long


def write_calibration(path: Path) -> None:
    """Writes training texts of both data sets, none of which the head was trained on."""
    half = CALIBRATION_TEXTS // 2
    texts = [text for each in training_texts() for text, _ in each[TRAINING_TEXTS : TRAINING_TEXTS + half]]
    random.Random(2).shuffle(texts)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])


def write_reference(classifier: Classifier, path: Path) -> None:
    """Writes the labels of a quarter of the texts that are sent; GPT-2 classifies four a second on one core."""
    from load import mixed_texts

    texts = mixed_texts()[::REFERENCE_STRIDE]
    labels = dict(zip(texts, map(str, classifier.predict(texts)), strict=True))
    path.write_text(json.dumps(labels), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], default=list(MODELS))
    arguments = parser.parse_args()
    for name in arguments.models:
        print(make(name, arguments.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
