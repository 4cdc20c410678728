"""``load`` opens a classifier's folder, ``evaluate`` measures a classifier on labelled texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..evaluation.metrics import EvaluationResult
from ..evaluation.multi_label import MultiLabelResult
from ..paths import user_path
from ..random_state import keeps_random_state
from ..suggestions import checked_names
from ..torch_state import own_torch_state
from .checkpoint import load_checkpoint
from .classifier import Classifier
from .decision_options import DecisionOptions
from .decisions import Decisions
from .export import merged_state
from .inputs import calibration_texts
from .int8 import choose_layers, use_int8
from .state import ClassifierState
from .swapped import check_checkpoint_and_data
from .third_party import is_third_party, load_third_party


@keeps_random_state()
@checked_names
@own_torch_state()
def load(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    calibration: Any = None,
    abstain: Any = None,
    conformal: Any = None,
    thresholds: Any = None,
    costs: Any = None,
    held_out: Any = None,
) -> Classifier:
    """Opens a checkpoint, the newest one in the folder of a run, or a classifier of another library.

    Parameters
    ----------
    path : path
        A folder that this library wrote, or that ``save_pretrained`` of transformers' or PEFT's sequence classifiers
        wrote.
    device : str
        ``"auto"`` is the first CUDA device if there is one, else the CPU.
    dtype : {"auto", "float32", "bfloat16", "float16", "int8"}
        Dtype of the computation; ``"auto"`` is bfloat16 where the device multiplies it faster than float32. ``"int8"``
        computes most matmuls of the blocks in int8, on a CPU: weights with a scale for each output, rows with a scale
        for each. The rest is computed as by ``"auto"``.
    backend : {"auto", "reference", "native", "triton"}
        Implementation of the ops.
    calibration : iterable of str, path, or name of a data set, optional
        With ``dtype="int8"``: texts like those that will be classified, of which up to 512 are read. At least 99.5 % of
        their labels must be those of float32; layers that change the logits most are left out until they are. By
        default the layers that a classifier was saved with.
    abstain : mapping, str or False, optional
        When a text gets no answer (``None``). One of ``{"accuracy": 0.98}``: the threshold of the predicted class's
        probability that answers most texts, while at least this share of the answers is right with a probability of
        95 % (``"level"``), see :func:`pyllmclf.evaluation.selective.threshold_of_accuracy`; ``{"answered": 0.9}``: the
        threshold that answers this share; ``{"probability": 0.8}``: this threshold. Beside it or alone
        ``{"unlike": 0.99}``: also texts that are farther from the training texts than this share of the held-out ones
        get none, see :meth:`Classifier.distance`. Also as text: ``"accuracy=0.98,unlike=0.99"``.
    conformal : float, mapping, str or False, optional
        Error rate of :meth:`Classifier.predict_sets`: 0.1, or ``{"error": 0.1, "by_class": True}`` for each class.
    thresholds : float, str, mapping or False, optional
        Where texts may have several labels, the least probability of each: ``"f1"`` for the largest F1 of each class,
        ``"precision=0.9"`` for the largest recall with at least this precision, a number, or numbers by class.
    costs : mapping or False, optional
        Where texts have one label: ``{("ham", "spam"): 5}`` is what predicting spam for a ham costs, (true, predicted);
        other errors cost 1. The class of least expected cost is predicted.
    held_out : data, optional
        Labelled texts that the classifier was not trained on, as for :meth:`Classifier.set_held_out`. By default
        thresholds are chosen on the scores that the training has left in the checkpoint.

    Returns
    -------
    Classifier

    Raises
    ------
    ModelError
        If there is no complete, undamaged checkpoint, or int8 changes too many labels.
    UsageError
        If an argument is unknown, or int8 has no calibration or another device than a CPU; if a rule needs held-out
        texts and there are none, or can't be reached on them.
    DataError
        If the calibration texts or the held-out texts can't be read.
    ResourceError
        If the device is unavailable.
    """
    if calibration is not None and dtype != "int8":
        raise UsageError("calibration is for dtype='int8'; leave it out.")
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"path={path!r} must be the folder of a classifier.")
    folder = Path(user_path(path))
    state = load_third_party(folder) if is_third_party(folder) else load_checkpoint(folder)
    if dtype != "int8":
        classifier = Classifier(state, device=device, dtype=dtype, backend=backend)
    else:
        classifier = _in_int8(state, device, backend, calibration)
    if held_out is not None and held_out is not False:
        before, classifier.state.decisions = classifier.decisions, Decisions()
        classifier.set_held_out(held_out)
        classifier.state.decisions = before
        options = DecisionOptions(abstain, conformal, thresholds, costs)
        classifier.state.decisions = classifier.decisions_of(options, anew=True)
    else:
        classifier.set_decisions(abstain=abstain, conformal=conformal, thresholds=thresholds, costs=costs)
    return classifier


def _in_int8(state: ClassifierState, device: str, backend: str, calibration: Any) -> Classifier:
    """A classifier whose blocks compute in int8."""
    classifier = Classifier(merged_state(state), device=device, backend=backend)
    if classifier.device.type != "cpu":
        raise UsageError("dtype='int8' is for CPUs; say device='cpu' (--device cpu), or another dtype.")
    state = classifier.state
    if calibration is not None:
        classifier.calibration = calibration_texts(calibration, pairs=state.has_pairs)
        state.int8 = choose_layers(classifier, classifier.compute, classifier.calibration)
    elif state.int8 is None:
        raise UsageError(
            "dtype='int8' needs texts on which labels are compared with those of float32: calibration=texts "
            "of load() (--calibration FILE), which a classifier that is saved remembers."
        )
    else:
        use_int8(state.model, state.int8.layers, state.int8.factors)
    return classifier


@checked_names
def evaluate(
    checkpoint: str | os.PathLike[str] | Classifier,
    data: Any,
    *,
    split: str | None = None,
    text_column: str | int | Sequence[str | int] | None = None,
    text_pair_column: str | int | None = None,
    label_column: str | int | None = None,
    empty_texts: str = "keep",
    encoding_errors: str = "strict",
    missing: str = "error",
    encoding: str = "auto",
    delimiter: str | None = None,
    header: bool = True,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    abstain: Any = None,
    progress: bool = False,
) -> EvaluationResult | MultiLabelResult:
    """Metrics of a checkpoint on labelled data.

    Parameters
    ----------
    checkpoint : path or Classifier
        A :class:`Classifier` has its device, dtype and backend already.
    data, split, text_column, text_pair_column, label_column, empty_texts, encoding_errors, missing, encoding,
    delimiter, header, abstain, progress
        As for :meth:`Classifier.evaluate`.
    device, dtype, backend : str
        As for :func:`load`; ``"int8"`` for a classifier that was saved in it.

    Returns
    -------
    EvaluationResult, or MultiLabelResult where texts may have several labels

    Raises
    ------
    UsageError
        If device, dtype or backend is chosen for a :class:`Classifier`.
    ModelError
        If there is no complete, undamaged checkpoint.
    DataError
        If the data can't be read, or a label is not one of the classes.
    """
    if isinstance(checkpoint, Classifier):
        if (device, dtype, backend) != ("auto", "auto", "auto"):
            raise UsageError("device, dtype and backend are chosen when a classifier is loaded; pass them to load().")
    else:
        check_checkpoint_and_data(checkpoint, data)
        checkpoint = load(checkpoint, device=device, dtype=dtype, backend=backend)
    return checkpoint.evaluate(
        data,
        split=split,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
        empty_texts=empty_texts,
        encoding_errors=encoding_errors,
        missing=missing,
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        abstain=abstain,
        progress=progress,
    )
