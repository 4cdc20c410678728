"""Predictions of a classifier: texts in any form to logits, probabilities and labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from ..compute import Compute
from ..explain import STEPS, Explainer, Explanations
from ..random_state import keeps_random_state
from ..torch_state import own_torch_state
from .decision_options import DecisionOptions
from .decisions import Decisions
from .inputs import TextInput, check_as_frame, check_top_k, class_indices, most_probable
from .state import ClassifierState

ABSTAINED = "abstained"
"""Name, in tables and JSON, of why a text has no answer."""


class Predictor(ABC):
    """The methods of a :class:`.classifier.Classifier` that predict, which it completes with those that compute."""

    state: ClassifierState
    compute: Compute

    @abstractmethod
    def packer(self, *args: Any, **options: Any) -> Any:
        """Tokenizes texts; see :meth:`.classifier.Classifier.packer`."""

    @abstractmethod
    def packed_logits(self, *args: Any, **options: Any) -> Any:
        """Logits of tokenized texts; see :meth:`.classifier.Classifier.packed_logits`."""

    @abstractmethod
    def answers(
        self, probabilities: np.ndarray, distances: np.ndarray | None = None, decisions: Decisions | None = None
    ) -> tuple[list[Any], list[str | None]]:
        """Labels and reasons of probabilities; see :meth:`.deciding.Deciding.answers`."""

    @abstractmethod
    def decisions_of(self, options: DecisionOptions, *, anew: bool = False) -> Decisions:
        """Rules with options; see :meth:`.deciding.Deciding.decisions_of`."""

    @abstractmethod
    def outputs(
        self, inputs: TextInput, progress: bool = False, *, distances: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities and distances of texts; see :meth:`.deciding.Deciding.outputs`."""

    def logits(self, texts: Any, *, as_frame: bool | None = None, progress: bool = False) -> Any:
        """Computes the logits of texts.

        Parameters
        ----------
        texts : str, or iterable of str
            One text, or several: a list, an array, a Series, a DataFrame, a ``datasets.Dataset``. Of no text the result
            is empty. A classifier of pairs takes a tuple ``(text, pair)``, or several; or two columns.
        as_frame : bool, optional
            Whether the result is a DataFrame with a column for each class. By default it is one where ``texts`` are a
            Series or a DataFrame, whose index it keeps.
        progress : bool
            Whether a bar is shown.

        Returns
        -------
        ndarray of float32, shape [texts, classes], or [classes] for one text; or a DataFrame of that shape

        Raises
        ------
        DataError
            If a text is not a string; or is no pair, and the classifier reads pairs, or the other way round.
        UsageError
            If ``texts`` are bytes, or another object that holds no texts.
        """
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        return inputs.scores(self._logits(inputs, progress), self.state.encoder.classes, as_frame)

    def predict_proba(self, texts: Any, *, as_frame: bool | None = None, progress: bool = False) -> Any:
        """Probabilities of the classes; arguments and errors as for :meth:`logits`.

        Returns
        -------
        ndarray of float64, shape [texts, classes], or [classes] for one text; or a DataFrame of that shape
            Rows sum to 1; where texts may have several labels, each class has a probability of its own.
        """
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        return inputs.scores(self.outputs(inputs, progress)[0], self.state.encoder.classes, as_frame)

    def predict(
        self,
        texts: Any,
        *,
        top_k: int | None = None,
        abstain: Any = None,
        as_frame: bool | None = None,
        progress: bool = False,
    ) -> Any:
        """Predicts the labels of texts, or ``None`` where the classifier :func:`abstains <pyllmclf.load>`.

        Parameters
        ----------
        texts : str, or iterable of str
            As for :meth:`logits`.
        top_k : int, optional
            Instead of its label, the most probable classes of each text: a list of that many pairs
            ``(label, probability)``, the most probable first.
        abstain : mapping, str or False, optional
            When no answer is given, as for :func:`pyllmclf.load`; by default as the classifier was loaded.
        as_frame : bool, optional
            ``True``: a DataFrame with the columns ``label`` (``labels`` where texts may have several) and
            ``probability_CLASS`` for each class; with ``top_k`` instead ``label_1``, ``probability_1``, ``label_2`` and
            so on. Where the classifier abstains, ``abstained`` says why, for each text that has no label. By default a
            Series, with the same index, of a Series or a DataFrame.
        progress : bool
            Whether a bar is shown.

        Returns
        -------
        list of str or int; the label for one text; a Series or a DataFrame
            The most probable label of each text, or that of least expected cost. Where texts may have several labels, a
            list for each text: those with a probability of at least 0.5, or their threshold.

        Raises
        ------
        DataError
            If a text is not a string.
        UsageError
            If ``texts`` are bytes or another object that holds no texts, or ``top_k`` is not a positive integer; if
            ``abstain`` is malformed, or can't be reached on the held-out texts.
        """
        check_top_k(top_k)
        check_as_frame(as_frame)
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        decisions = self.decisions_of(DecisionOptions(abstain=abstain))
        probabilities, distances = self.outputs(inputs, progress, distances=decisions.unlike is not None)
        labels, reasons = self.answers(probabilities, distances, decisions)
        if as_frame:
            why = {ABSTAINED: reasons} if decisions.abstains else {}
            return inputs.frame({self.label_name: labels} | why | self.columns(probabilities, top_k))
        results = labels
        if top_k is not None:
            best = most_probable(probabilities, self.state.encoder.classes, top_k)
            results = [None if reason else row for row, reason in zip(best, reasons, strict=True)]
        if inputs.index is not None and as_frame is None:
            return inputs.series(results, self.label_name if top_k is None else "top_k")
        return results[0] if inputs.single else results

    @keeps_random_state()
    @own_torch_state()
    def explain(
        self,
        texts: Any,
        target: Any = None,
        *,
        method: str = "integrated_gradients",
        steps: int = STEPS,
        baseline: str | None = None,
        batch_tokens: int | None = None,
        progress: bool = False,
    ) -> Any:
        """Weighs the words of texts: what each of them adds to the logit of a class.

        The computation is in fp32, whatever dtype the classifier predicts in: one in int8 or bf16 is explained by the
        same weights in fp32. Special tokens, the prompt and padding stay as they are, and weigh nothing. A text in
        windows has the means of its windows' weights, as its logits are their means.

        Parameters
        ----------
        texts : str, or iterable of str
            As for :meth:`logits`.
        target : label, or sequence of labels, optional
            Class whose logit is explained, or that of each text; by default the most probable class of each text.
        method : {"integrated_gradients", "gradient_x_input", "occlusion"}
            Integrated gradients (Sundararajan et al. 2017) of the tokens' embeddings from the baseline to the text:
            the weights add up to the logit less that of the baseline, but for the error of the integration, which
            :attr:`Explanation.completeness_error` has. The gradient at the text times the embedding less the baseline.
            Or the logit less that with the word replaced by the baseline, for one word at a time. The last two don't
            add up.
        steps : int
            Points of integration (Gauss–Legendre), from 1 to 1024.
        baseline : {"pad", "mask", "unk", "zero"}, optional
            Embedding that stands for no word: that of a special token, or zeros. By default the padding token's; for
            occlusion the mask token's where there is one.
        batch_tokens : int, optional
            Most tokens of a batch, which has at least one text; memory grows with it. By default 2,048 on a CPU and
            16,384 on a GPU.
        progress : bool
            Whether a bar is shown.

        Returns
        -------
        Explanation for one text, otherwise Explanations
            Explanations keep the index of a Series or a DataFrame.

        Raises
        ------
        DataError
            If a text is not a string; or is no pair, and the classifier reads pairs, or the other way round.
        NonFiniteError
            If a logit is not a finite number.
        UsageError
            If ``target`` is no class, ``texts`` hold no texts, an argument is wrong, or the tokenizer lacks the
            baseline's token.
        """
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        state = self.state
        explainer = Explainer(
            state.model,
            state.tokenizer,
            state.encoder,
            state.layout,
            self.compute,
            method=method,
            steps=steps,
            baseline=baseline,
            batch_tokens=batch_tokens,
        )
        targets = None if target is None else class_indices(target, inputs, state.encoder.names)
        explanations = explainer.explain(inputs.texts, targets, progress=progress)
        return explanations[0] if inputs.single else Explanations(explanations, inputs.index)

    @property
    def label_name(self) -> str:
        """Name of predictions in tables: ``label``, or ``labels`` where texts may have several."""
        return "label" if self.state.label_separator is None else "labels"

    def columns(self, probabilities: np.ndarray, top_k: int | None = None) -> dict[str, Any]:
        """Columns of a table: ``probability_CLASS``, or with ``top_k`` ``label_1``, ``probability_1``, ``label_2``, ...

        Parameters
        ----------
        probabilities : ndarray, shape [texts, classes]
        top_k : int, optional
        """
        if top_k is None:
            names = self.state.encoder.names
            return {f"probability_{name}": column for name, column in zip(names, probabilities.T, strict=True)}
        best = most_probable(probabilities, self.state.encoder.classes, top_k)
        columns: dict[str, Any] = {}
        for place in range(min(top_k, len(self.state.encoder.classes))):
            columns[f"label_{place + 1}"] = [row[place][0] for row in best]
            columns[f"probability_{place + 1}"] = [row[place][1] for row in best]
        return columns

    def _logits(self, inputs: TextInput, progress: bool) -> np.ndarray:
        if not inputs.texts:
            return np.zeros((0, len(self.state.encoder.classes)), dtype=np.float32)
        return self.packed_logits(self.packer(inputs.texts), progress=progress)
