"""The classifier as a scikit-learn estimator, for pipelines, cross-validation, grid search and calibration."""

from __future__ import annotations

import numbers
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .choices import (
    Auto,
    Backend,
    Cache,
    Dtype,
    LongTexts,
    Loss,
    Padding,
    PairTruncation,
    Pooling,
    Scheduler,
    Strategy,
    Weights,
)
from .data.temporary import temporary_folder
from .errors import DataError, UsageError
from .random_state import keeps_random_state
from .suggestions import checked_names
from .text_pair import Text, TextPair

# Parameters that finetune does not have, or has under another name.
_RENAMED = ("random_state", "validation_fraction", "output_dir")


class LLMClassifier(ClassifierMixin, BaseEstimator):
    """Fine-tunes GPT-2, BERT or one of its relatives into a text classifier.

    Parameters
    ----------
    model, weights, revision, trainable, lora, pooling, causal, padding, head_bias, dropout, max_length,
    long_texts, pair_truncation, prompt
        As for :func:`pyllmclf.finetune`: the model, its trained parameters, and how it reads a text.
    epochs, batch_size, batch_tokens, gradient_accumulation_steps, learning_rate, loss, weight_decay, warmup_ratio,
    scheduler, layerwise_lr_decay, max_grad_norm, class_weights, label_smoothing, early_stopping, calibrate
        As for :func:`pyllmclf.finetune`: the training.
    validation_fraction : float, optional
        Fraction of the texts that is held out to validate each epoch; ``early_stopping`` and ``calibrate`` need it.
    dtype, device, backend, cache, cache_budget, cache_dir, cuda_graphs, strategy, output_dir, overwrite, logs,
    callbacks, report, progress
        As for :func:`pyllmclf.finetune`: device, cache, output and progress.
    random_state : int, RandomState or None
        The ``seed`` of :func:`pyllmclf.finetune`. A RandomState, or numpy's global one for ``None``, draws a new seed
        in each fit.

    Attributes
    ----------
    classes_ : ndarray, shape [classes]
        Labels in the order of the columns of :meth:`predict_proba`.
    classifier_ : Classifier
        The trained classifier.
    history_ : list of EpochRecord
        Metrics of the training's epochs; empty after unpickling.

    Notes
    -----
    Texts are a sequence of strings, an array of them, a Series, or a DataFrame with one column; pairs of texts a
    sequence of tuples ``(text, pair)``, or an array or a DataFrame with two columns. A pickle contains the files of a
    checkpoint: weights as safetensors, everything else as text.
    """

    @checked_names
    def __init__(
        self,
        model: str | os.PathLike[str] = "gpt2",
        *,
        weights: Weights = "pretrained",
        revision: str | None = None,
        trainable: str = "auto",
        lora: Any = None,
        pooling: Pooling | Auto | None = "auto",
        causal: bool | None = None,
        padding: Padding | int = "none",
        head_bias: bool | None = None,
        dropout: float | Literal["config", "auto"] = "auto",
        max_length: int | None = None,
        long_texts: LongTexts = "head",
        pair_truncation: PairTruncation = "longest_first",
        prompt: str | None = "auto",
        epochs: int | Auto = "auto",
        batch_size: int | Auto = "auto",
        batch_tokens: int | None = None,
        gradient_accumulation_steps: int = 1,
        learning_rate: float | Auto = "auto",
        loss: Loss | Auto = "auto",
        weight_decay: float = 0.1,
        layerwise_lr_decay: float = 1.0,
        warmup_ratio: float | Auto = "auto",
        scheduler: Scheduler | Auto = "auto",
        max_grad_norm: float | None = None,
        class_weights: Any = None,
        label_smoothing: float = 0.0,
        early_stopping: int | None = None,
        calibrate: bool = False,
        validation_fraction: float | None = None,
        dtype: Dtype = "auto",
        device: str = "auto",
        backend: Backend = "auto",
        random_state: int | np.random.RandomState | None = 123,
        cache: Cache = "auto",
        cache_budget: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cuda_graphs: bool = True,
        strategy: Strategy = "auto",
        output_dir: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        logs: Any = None,
        callbacks: Any = None,
        report: bool = False,
        progress: bool = False,
    ) -> None:
        arguments = dict(locals())
        del arguments["self"]
        self.__dict__.update(arguments)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LLMClassifier:
        """Fine-tunes the model on texts and their labels.

        Parameters
        ----------
        X : sequence of str, or of pairs of texts
            Pairs are tuples or lists of two texts, or two columns, the first texts' first. The columns of a frame are
            recorded as ``feature_names_in_``, and a later frame must have them in the same order.
        y : sequence of labels, or array of 0 and 1, shape [texts, classes]
            Strings, integers or booleans; or a 1 for each class that a text has, with each class decided on its own.
        sample_weight : sequence of float, shape [texts], or float, optional
            Weights of the texts' losses, as for :func:`pyllmclf.finetune`. A single number weighs all texts alike.

        Returns
        -------
        self

        Raises
        ------
        UsageError, DataError, ModelError, ResourceError, NonFiniteError
            As :func:`pyllmclf.finetune`.
        """
        from .api import finetune
        from .training.shared_rows import rows_of_process, sharing_rows

        if y is None:
            raise DataError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        texts, names = _texts(X), _names_of_pairs(X)
        if names is not None:
            columns = " and ".join(map(repr, names))
            warnings.warn(f"X: read pairs of texts from the columns {columns}, in this order.", stacklevel=2)
        if issparse(y):
            y = y.toarray()
        labels = np.asarray(y)
        if isinstance(sample_weight, numbers.Real):
            sample_weight = np.full(len(texts), sample_weight)
        elif isinstance(sample_weight, str):
            raise UsageError("sample_weight must have a number for each text; X has no columns to choose from.")
        check_consistent_length(texts, labels, sample_weight)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = column_or_1d(labels, warn=True)
        if labels.ndim == 2:
            classes, train_labels = _columns(labels)
        elif labels.ndim == 1:
            check_classification_targets(labels)
            classes, indices = np.unique(labels, return_inverse=True)
            # Labels of types that a classifier can't save are replaced by their numbers, in the same order.
            has_names = all(isinstance(c, (str, numbers.Real, np.bool_)) for c in classes)
            train_labels = labels.tolist() if has_names else indices.tolist()
        else:
            raise DataError(f"y must have a label, or a row of 0 and 1, for each text, not the shape {labels.shape}.")
        arguments = {name: value for name, value in self.get_params(deep=False).items() if name not in _RENAMED}
        # The fits of a grid search have texts and a model in common.
        with nullcontext() if self.cache == "off" else sharing_rows(rows_of_process()):
            result = finetune(
                arguments.pop("model"),
                (texts, train_labels),
                multi_label=labels.ndim == 2,
                validation=False if self.validation_fraction is None else self.validation_fraction,
                test=False,
                seed=_seed(self.random_state),
                sample_weight=sample_weight,
                output_dir=self.output_dir,
                **arguments,
            )
        self.classes_ = classes
        self.classifier_ = result.classifier
        self.history_ = result.history
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Computes logits, float64, shape [texts, classes]; for two classes their difference, shape [texts]."""
        check_is_fitted(self, "classifier_")
        logits = self.classifier_.logits(self._texts_like_fitted(X)).astype(np.float64)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 and not self._multi_label else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Computes probabilities, float64, shape [texts, classes]."""
        check_is_fitted(self, "classifier_")
        return self.classifier_.predict_proba(self._texts_like_fitted(X))

    def predict(self, X: Any) -> np.ndarray:
        """Predicts each text's most probable label, shape [texts], or 0 and 1, shape [texts, classes], as in ``y``."""
        check_is_fitted(self, "classifier_")
        if self._multi_label:
            return (self.classifier_.logits(self._texts_like_fitted(X)) >= 0).astype(np.int64)
        return self.classes_[self.classifier_.logits(self._texts_like_fitted(X)).argmax(axis=1)]

    def _texts_like_fitted(self, X: Any) -> list[Text]:
        """The texts; a frame of pairs must have the columns that :meth:`fit` was given, in that order."""
        names, fitted = _names_of_pairs(X), getattr(self, "feature_names_in_", None)
        if names is not None and fitted is not None and names != list(fitted):
            raise DataError(
                "The feature names should match those that were passed during fit, in the same order: "
                f"{', '.join(map(repr, fitted))}, not {', '.join(map(repr, names))}."
            )
        return _texts(X)

    @property
    def _multi_label(self) -> bool:
        return self.classifier_.state.label_separator is not None

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "classifier_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.input_tags.two_d_array = False
        tags.input_tags.one_d_array = True
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        from .classifier.checkpoint import save_checkpoint

        state = dict(super().__getstate__())
        classifier = state.pop("classifier_", None)
        state.pop("history_", None)
        if classifier is not None:
            with temporary_folder() as folder, keeps_random_state():
                checkpoint = folder / "classifier"
                save_checkpoint(checkpoint, classifier.state, has_place=False)
                files = [path for path in checkpoint.rglob("*") if path.is_file()]
                state["_checkpoint"] = {path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in files}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        from .classifier import load

        state = dict(state)
        checkpoint = state.pop("_checkpoint", None)
        super().__setstate__(state)
        if checkpoint is None:
            return
        with temporary_folder() as folder:
            for name, content in checkpoint.items():
                path = (Path(folder) / name).resolve()
                if not path.is_relative_to(Path(folder).resolve()):
                    raise UsageError(
                        f"the pickle names a file outside of its classifier ({name}); load only pickles that you trust."
                    )
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self.classifier_ = load(folder, device=self.device, dtype=self.dtype, backend=self.backend)
        self.history_ = []


def _seed(random_state: Any) -> Any:
    """Draws a seed from a RandomState, or from numpy's global one for ``None``; returns a number unchanged."""
    if random_state is None or isinstance(random_state, np.random.RandomState):
        return int(check_random_state(random_state).randint(2**31 - 1))
    return random_state


def _columns(indicator: np.ndarray) -> tuple[np.ndarray, list[list[int]]]:
    """Converts an array of 0 and 1, shape [texts, classes], to (class numbers, class numbers of each text).

    Raises
    ------
    DataError
        If the array contains another number, or no text has one of the classes.
    """
    if not np.isin(indicator, (0, 1)).all():
        raise DataError("y has the shape [texts, classes] and must then contain only 0 and 1.")
    has = indicator.astype(bool)
    if not has.any(axis=0).all():
        raise DataError(f"no text has the class {int(np.flatnonzero(~has.any(axis=0))[0])} of y.")
    return np.arange(indicator.shape[1]), [np.flatnonzero(row).tolist() for row in has]


def _names_of_pairs(X: Any) -> list[str] | None:
    """Names of the columns of a frame that has two; ``None`` for anything else."""
    names = list(map(str, X.columns)) if hasattr(X, "columns") and hasattr(X, "shape") else []
    return names if len(names) == 2 else None


def _texts(X: Any) -> list[Text]:
    """Converts the texts, or pairs of texts, to a list.

    Raises
    ------
    DataError
        If they are not a sequence of strings or of pairs, or there is none.
    """
    if isinstance(X, (str, bytes)):
        raise DataError("X must be a sequence of texts; put the single text into a list.")
    if issparse(X):
        raise DataError("X must be a sequence of texts; sparse input is not supported.")
    array = X if isinstance(X, (list, tuple)) else np.asarray(X, dtype=object)
    if isinstance(array, np.ndarray):
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        elif array.ndim == 2 and array.shape[1] == 2 and all(isinstance(text, str) for text in array[:1].ravel()):
            array = [TextPair(*row) for row in array.tolist()]
        if isinstance(array, np.ndarray) and array.ndim == 2:
            rows, columns = array.shape
            raise DataError(
                f"X must be a sequence of texts or have one column, not the shape {array.shape} "
                f"(n_samples={rows}, n_features={columns}); choose the column of the texts."
            )
        if isinstance(array, np.ndarray) and array.ndim != 1:
            raise DataError(f"X must be a sequence of texts, not of the shape {array.shape}.")
    texts = [TextPair(*text) if isinstance(text, (tuple, list)) and len(text) == 2 else text for text in array]
    for i, text in enumerate(texts):
        if wrong := [part for part in _parts(text) if not isinstance(part, str)]:
            raise DataError(f"text {i} is a {type(wrong[0]).__name__}, not a string.")
    if not texts:
        raise DataError("X has no text: at least one is needed.")
    return [TextPair(*map(str, text)) if isinstance(text, TextPair) else str(text) for text in texts]


def _parts(text: Any) -> tuple[Any, ...]:
    return text if isinstance(text, TextPair) else (text,)
