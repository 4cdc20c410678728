"""Results as a line, as the command line's text, as HTML, and as a DataFrame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyllmclf
from pyllmclf.cli.main import main
from pyllmclf.data.readers import TextData
from pyllmclf.data.validation import validate_splits
from pyllmclf.evaluation.metrics import EvaluationResult, evaluate_logits
from pyllmclf.evaluation.multi_label import evaluate_multi_label
from pyllmclf.evaluation.tables import SHOWN_MATRIX

NANO: dict[str, Any] = {"model": "gpt2-nano", "weights": "random", "progress": False, "batch_size": 4}
DATA = ([f"text number {i}" for i in range(12)], ["<b>ham</b>", "spam\x1b[31m"] * 6)


def evaluation(count: int = 2, texts: int = 40) -> EvaluationResult:
    labels = np.arange(texts) % count
    logits = np.eye(count, dtype=np.float32)[(labels + (np.arange(texts) % 4 == 0)) % count]
    classes = [f"class {i}" for i in range(count)]
    return evaluate_logits(logits, labels, classes, seconds=1.5)


def test_evaluation() -> None:
    result = evaluation()
    assert repr(result) == "EvaluationResult(texts=40, accuracy=0.7500, macro_f1=0.7333, log_loss=0.5633, classes=2)"
    assert str(result).splitlines() == [
        "accuracy 75.00%, macro-F1 0.7333, log-loss 0.5633 (40 texts, 1.5 s)",
        "class    precision  recall      F1  texts",
        "class 0     1.0000  0.5000  0.6667     20",
        "class 1     0.6667  1.0000  0.8000     20",
        "true class ↓ predicted →  class 0  class 1",
        "class 0                        10       10",
        "class 1                         0       20",
    ]
    frame = result.to_frame()
    assert list(frame.columns) == ["precision", "recall", "f1", "support"] and frame.index.name == "class"
    assert frame.loc["class 0", "support"] == 20 and frame.loc["class 1", "f1"] == pytest.approx(0.8)
    assert "<td>class 0</td><td>1.0000</td>" in result._repr_html_()


def test_evaluation_of_many_classes() -> None:
    result = evaluation(SHOWN_MATRIX + 1, texts=84)
    lines = str(result).splitlines()
    pairs = set(zip(result.labels[~result.right].tolist(), result.predictions[~result.right].tolist(), strict=True))
    assert lines[SHOWN_MATRIX + 3] == "most frequent wrong predictions:" and 1 < len(pairs) <= 20
    listed = [line.split() for line in lines[SHOWN_MATRIX + 5 :]]
    assert {(int(true), int(predicted)) for _, true, _, predicted, _ in listed} == pairs
    assert sum(int(count) for *_, count in listed) == int((~result.right).sum())
    right = evaluate_logits(np.eye(30, dtype=np.float32), np.arange(30), [str(i) for i in range(30)])
    assert str(right).splitlines()[-1] == "no wrong predictions"


def test_several_labels() -> None:
    logits = np.array([[3, -3], [3, 3], [-3, -3]], dtype=np.float32)
    result = evaluate_multi_label(logits, np.array([[1, 0], [0, 1], [0, 0]], dtype=np.float32), ["a", "b"])
    assert repr(result).startswith("MultiLabelResult(texts=3, accuracy=0.6667, micro_f1=0.8000, ")
    assert str(result).splitlines()[-1] == "all classes of a text right: 66.67%; micro-F1 0.8000"
    assert result.to_frame()["support"].tolist() == [1, 1] and "<table>" in result._repr_html_()


def test_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = pyllmclf.finetune(train=DATA, validation=False, test=DATA, epochs=2, output_dir=tmp_path / "run", **NANO)
    accuracy = result.metrics["test"]["accuracy"]
    assert (
        repr(result)
        == (f"FinetuneResult(epochs=2, steps=6, test_accuracy={accuracy:.4f}, output_dir={str(tmp_path / 'run')!r})")
        or len(str(tmp_path)) > 60
    )
    text = str(result)
    assert text.startswith("test: accuracy ") and text.endswith(f"checkpoints in {tmp_path / 'run'}")
    assert r"spam\x1b[31m" in text and "\x1b" not in text
    html = result._repr_html_()
    assert "&lt;b&gt;ham&lt;/b&gt;" in html and "<b>ham" not in html and "\x1b" not in html
    frame = result.to_frame()
    assert frame.index.tolist() == [1, 2] and frame["train_loss"].tolist() == [
        each.train_loss for each in result.history
    ]
    # The command line prints the same text, but for times.
    frame_path = tmp_path / "data.csv"
    frame_path.write_text("text,label\n" + "".join(f"{t},{'xy'[i % 2]}\n" for i, t in enumerate(DATA[0])))
    arguments = ["--model", "gpt2-nano", "--weights", "random", "--epochs", "1", "--no-progress", "--output-dir"]
    names = ["--train", str(frame_path), "--test", str(frame_path)]
    with pytest.raises(SystemExit, match="0"):
        main(["finetune", *names, *arguments, str(tmp_path / "b")])
    printed = capsys.readouterr().out
    again = pyllmclf.finetune(
        train=frame_path, test=frame_path, epochs=1, **NANO | {"batch_size": 8}, output_dir=tmp_path / "c"
    )
    assert without_times(printed) == without_times(f"{again}\n".replace(str(tmp_path / "c"), str(tmp_path / "b")))


def without_times(text: str) -> str:
    return re.sub(r"[\d.,]+ s\b|[\d,]+ tokens/s", "", text)


def test_seeds() -> None:
    result = pyllmclf.finetune_seeds(train=DATA, validation=False, test=DATA, epochs=1, seeds=2, **NANO)
    assert re.fullmatch(r"SeedsResult\(seeds=\[123, 124\], test_accuracy='0\.\d{4} ± 0\.\d{4}'\)", repr(result))
    lines = str(result).splitlines()
    assert lines[0] == "2 seeds: 123, 124" and lines[1].split() == [
        "split",
        "metric",
        "mean",
        "std",
        "least",
        "largest",
    ]
    frame = result.to_frame()
    assert frame.index.names == ["split", "metric"] and list(frame.columns) == ["mean", "std", "min", "max"]
    assert frame.loc[("test", "accuracy"), "mean"] == result.summary["test"]["accuracy"]["mean"]


def test_data_report() -> None:
    report = validate_splits(
        {"train": TextData(["a", "b", "a"], ["x", "y", "x"], "a.csv"), "test": TextData(["c"], ["z"], "b.csv")}
    )
    assert repr(report) == "DataReport(train=3, test=1, classes=2, problems=1)"
    assert str(report).splitlines() == [
        "train: 3 texts; x 2 (66.7%), y 1 (33.3%); 1 duplicates",
        "test: 1 texts; z 1 (100.0%); 0 duplicates",
        "test: no training text has the label z",
        "note: train: 2 classes have fewer than 5 texts (y: 1; x: 2); a validation fraction may hold none of them, and "
        "the text of a class with one stays in training",
    ]
    assert report.to_frame().to_dict() == {"train": {"x": 2, "y": 1, "z": 0}, "test": {"x": 0, "y": 0, "z": 1}}
    assert "<div>train: 3 texts" in report._repr_html_()


def test_bases_are_abstract() -> None:
    """A subclass without a method of its base can't be made, rather than fail at the first call."""
    from pyllmclf.classifier.predictor import Predictor
    from pyllmclf.cli.prediction_writer import Writer
    from pyllmclf.tables import Shown

    assert Shown.__abstractmethods__ == {"parts", "brief"}
    assert Writer.__abstractmethods__ == {"write_batch"}
    assert Predictor.__abstractmethods__ == {"packer", "packed_logits", "answers", "decisions_of", "outputs"}
    with pytest.raises(TypeError, match="abstract"):
        Shown()  # type: ignore[abstract]
