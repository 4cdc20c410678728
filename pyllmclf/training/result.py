"""What a training gives: the classifier, its figures, and those of the training before it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..classifier.classifier import Classifier
from ..classifier.held_out import HeldOut
from ..data.lengths import LengthReport
from ..evaluation.tables import evaluation_parts
from ..tables import Line, Part, Shown
from .baselines import accuracies
from .records import EpochRecord

if TYPE_CHECKING:
    import pandas as pd

HEADLINE = ("texts", "accuracy", "micro_f1", "macro_f1", "hamming_loss", "log_loss")


def title_of(split: str, metrics: dict[str, Any]) -> str:
    """The split, with which classifier its metrics are of where it is not the result's."""
    return f"{split}, by the classifier trained without these texts" if "classifier" in metrics else split


@dataclass(frozen=True, repr=False)
class FinetuneResult(Shown):
    """Result of a training.

    Attributes
    ----------
    classifier : Classifier
        With the weights of the last step, or with ``early_stopping`` those of the best epoch.
    history : list of EpochRecord
        Metrics of each epoch.
    metrics : dict
        Metrics of the classifier by name, under ``"validation"`` and ``"test"``, where there are such texts. Where the
        validation texts were held out by default and the classifier is trained on all texts, those of validation have
        ``"classifier": "before_refit"``: the one that was trained without them.
    timing : dict
        Seconds of preparing, training, evaluating and saving; optimizer steps; real tokens per second of training.
    output_dir : Path or None
    lengths : LengthReport
        Lengths of the training texts.
    calibration : dict or None
        With ``calibrate``: the temperature, and the log loss and expected calibration error of the validation texts
        before and after.
    baselines : dict of str to dict
        Accuracy of simple classifiers on the validation texts, by name, with the number of training texts each is made
        from; empty where none was measured.
    out_of_fold : DataFrame or None
        Of a search's winner: see :class:`pyllmclf.TuneResult`.
    """

    classifier: Classifier
    history: list[EpochRecord]
    metrics: dict[str, dict[str, Any]]
    timing: dict[str, float]
    output_dir: Path | None
    lengths: LengthReport
    calibration: dict[str, float] | None = None
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    out_of_fold: pd.DataFrame | None = None

    def to_frame(self) -> pd.DataFrame:
        """The history, a row per epoch, as a DataFrame of pandas."""
        import pandas as pd

        columns = [each.name for each in fields(EpochRecord)]
        return pd.DataFrame([record.to_dict() for record in self.history], columns=columns).set_index("epoch")

    def brief(self) -> dict[str, Any]:
        """Epochs and steps, the accuracy of each split, and the folder."""
        accuracies = {
            f"{'held_out' if 'classifier' in metrics else split}_accuracy": metrics["accuracy"]
            for split, metrics in self.metrics.items()
        }
        numbers = {"epochs": len(self.history), "steps": int(self.timing["steps"])}
        return numbers | accuracies | {"output_dir": None if self.output_dir is None else str(self.output_dir)}

    def parts(self) -> list[Part]:
        """Metrics of each split, calibration, speed and the folder."""
        parts = [
            part
            for name, metrics in self.metrics.items()
            for part in (*evaluation_parts(metrics, title_of(name, metrics)), Line(""))
        ]
        if self.baselines:
            parts.append(Line(f"baselines on the validation texts: {accuracies(self.baselines)}"))
        if (calibration := self.calibration) is not None:
            loss = f"log loss {calibration['log_loss_before']:.4f} -> {calibration['log_loss_after']:.4f}"
            error = f"calibration error {calibration['ece_before']:.2%} -> {calibration['ece_after']:.2%}"
            parts.append(Line(f"temperature {calibration['temperature']:.3f}; on the validation texts {loss}, {error}"))
        timing = self.timing
        speed = f"{timing['tokens_per_second']:,.0f} tokens/s"
        parts.append(Line(f"trained {timing['steps']:.0f} steps in {timing['train_seconds']:.1f} s: {speed}"))
        if self.output_dir is not None:
            parts.append(Line(f"checkpoints in {self.output_dir}"))
        return parts

    def to_dict(self) -> dict[str, Any]:
        """All but the classifier, as types that JSON has."""
        return {
            "output_dir": None if self.output_dir is None else str(self.output_dir),
            "classes": self.classifier.classes_,
            "metrics": self.metrics,
            "history": [record.to_dict() for record in self.history],
            "timing": self.timing,
            "lengths": self.lengths.to_dict(),
            "calibration": self.calibration,
            "baselines": self.baselines,
        }


@dataclass(frozen=True)
class Measured:
    """What the training without the held-out texts gave, of a classifier that is then trained on all texts.

    Attributes
    ----------
    metrics : dict
        On the held-out texts.
    baselines : dict of str to dict
        As :attr:`FinetuneResult.baselines`.
    held_out : HeldOut or None
        Scores of the held-out texts.
    """

    metrics: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    held_out: HeldOut | None = field(default=None, compare=False)

    def record(self) -> dict[str, Any]:
        """What JSON can hold of it; the scores are in a file of the checkpoint."""
        return {"metrics": self.metrics, "baselines": self.baselines}

    @property
    def headline(self) -> dict[str, Any]:
        """The main figures, and which classifier they are of."""
        return {name: self.metrics[name] for name in (*HEADLINE, "classifier") if name in self.metrics}
