"""How a classifier answers: its rules, and what it knows of held-out texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.labels import MultiLabelEncoder
from ..data.sources import read_data
from ..errors import UsageError
from ..evaluation.metrics import softmax
from ..evaluation.multi_label import sigmoid
from ..evaluation.unlike import quantile_of
from ..random_state import keeps_random_state
from .choose_decisions import choose_decisions
from .decision_options import DecisionOptions, asked_decisions
from .decisions import Decisions
from .held_out import MOST_REFERENCE, THIS, HeldOut, TrainingRows, sample
from .inference import RowMeasure
from .inputs import TextInput
from .predictor import Predictor

SEED = 123


class Deciding(Predictor):
    """The methods of a :class:`.classifier.Classifier` that decide, abstain and give sets of labels."""

    @property
    def decisions(self) -> Decisions:
        """The rules by which probabilities become answers."""
        return self.state.decisions

    @property
    def held_out(self) -> HeldOut | None:
        """Scores of texts that the classifier was not trained on; ``None`` without any."""
        return self.state.held_out

    def set_decisions(
        self, *, abstain: Any = None, conformal: Any = None, thresholds: Any = None, costs: Any = None
    ) -> None:
        """Changes the rules, which :meth:`save` writes.

        Parameters
        ----------
        abstain, conformal, thresholds, costs
            As for :func:`pyllmclf.load`; ``None`` leaves a rule as it is, ``False`` removes it. Where costs change, the
            threshold of abstaining is chosen anew.

        Raises
        ------
        UsageError
            If a rule is malformed, is for classifiers of the other kind, needs held-out texts and there are none, or
            can't be reached on them.
        """
        self.state.decisions = self.decisions_of(DecisionOptions(abstain, conformal, thresholds, costs))

    def decisions_of(self, options: DecisionOptions, *, anew: bool = False) -> Decisions:
        """The rules of the classifier, after these options.

        Parameters
        ----------
        options : DecisionOptions
        anew : bool
            Whether rules are chosen anew even where no option changes one, as for other held-out texts.

        Raises
        ------
        UsageError
            As :meth:`set_decisions`.
        """
        state = self.state
        if not (options or (anew and self.decisions)):
            return self.decisions
        several = isinstance(state.encoder, MultiLabelEncoder)
        asked = asked_decisions(options, self.decisions, state.encoder.classes, several=several)
        return choose_decisions(asked, state.held_out, state.training_rows, state.encoder.names)

    @keeps_random_state()
    def set_held_out(
        self,
        data: Any,
        *,
        split: str | None = None,
        text_column: str | int | Sequence[str | int] | None = None,
        text_pair_column: str | int | None = None,
        label_column: str | int | None = None,
        progress: bool = False,
    ) -> None:
        """Measures the classifier on labelled texts that it was not trained on, which rules are then chosen on.

        They replace the ones that the training has left, if any. Rules that are in force are chosen anew.

        Parameters
        ----------
        data, split, text_column, text_pair_column, label_column, progress
            As for :meth:`evaluate`; of data that have splits the validation texts by default.

        Raises
        ------
        DataError
            If the data can't be read, or a label is not one of the classes.
        UsageError
            If a rule in force can't be reached on these texts.
        """
        texts = read_data(
            data,
            split=split,
            default_split="validation",
            text_column=text_column,
            text_pair_column=text_pair_column,
            label_column=label_column,
            pairs=self.state.has_pairs,
            label_separator=self.state.label_separator,
        )
        labels = self.state.encoder.encode(texts)
        rows = self.state.training_rows
        found = self.packed_logits(
            self.packer(texts.texts, labels),
            progress=progress,
            measure=None if rows is None else rows.statistics.distances,
        )
        logits, distances = self.split_outputs(found)
        before = self.state.held_out, rows
        self.state.held_out = HeldOut.sampled(logits, labels, THIS, SEED)
        if rows is not None and distances is not None:
            chosen = distances[sample(len(distances), MOST_REFERENCE, SEED)]
            self.state.training_rows = TrainingRows(rows.statistics, chosen, THIS)
        if self.decisions:
            try:
                self.state.decisions = self.decisions_of(DecisionOptions(), anew=True)
            except UsageError:
                self.state.held_out, self.state.training_rows = before
                raise

    def answers(
        self, probabilities: np.ndarray, distances: np.ndarray | None = None, decisions: Decisions | None = None
    ) -> tuple[list[Any], list[str | None]]:
        """Labels of texts, and why a text has none.

        Parameters
        ----------
        probabilities : ndarray of float64, shape [texts, classes]
        distances : ndarray, shape [texts], optional
            Of :meth:`distance`, needed where rules read it.
        decisions : Decisions, optional
            Other rules than the classifier's.

        Returns
        -------
        labels : list
            ``None`` for a text without an answer.
        reasons : list of str or None
        """
        decisions = self.decisions if decisions is None else decisions
        encoder = self.state.encoder
        several = isinstance(encoder, MultiLabelEncoder)
        labels: list[Any] = encoder.decode(decisions.predictions(probabilities, several=several))
        reasons = decisions.reasons(probabilities, distances)
        return [None if reason else label for label, reason in zip(labels, reasons, strict=True)], reasons

    def predict_with_reasons(self, texts: Any, *, abstain: Any = None, progress: bool = False) -> Any:
        """Labels of texts, each with why it has none.

        Parameters
        ----------
        texts, abstain, progress
            As for :meth:`predict`.

        Returns
        -------
        list of (label or None, str or None), or one such pair for one text
            The reason names the rule: ``"below the threshold 0.83 for 98 % accuracy"``.

        Raises
        ------
        DataError, UsageError
            As :meth:`predict`.
        """
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        decisions = self.decisions_of(DecisionOptions(abstain=abstain))
        found = self.outputs(inputs, progress, distances=decisions.unlike is not None)
        pairs = list(zip(*self.answers(*found, decisions), strict=True))
        return pairs[0] if inputs.single else pairs

    def predict_sets(self, texts: Any, *, conformal: Any = None, progress: bool = False) -> Any:
        """Sets of labels that hold the true one with the promised probability (split conformal prediction).

        Parameters
        ----------
        texts, progress
            As for :meth:`predict`.
        conformal : float, mapping or str, optional
            Error rate, as for :func:`pyllmclf.load`; by default as the classifier was loaded.

        Returns
        -------
        list of list of labels, the most probable first; one list for one text; a Series of a Series or a DataFrame
            No list is empty: where no label reaches the quantile, it has the most probable one.

        Raises
        ------
        DataError
            If a text is not a string.
        UsageError
            If no error rate is given here or on loading, or there are no held-out scores.
        """
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        decisions = self.decisions_of(DecisionOptions(conformal=conformal))
        if decisions.conformal is None:
            raise UsageError("predict_sets needs an error rate: conformal=0.1, here or of load().")
        sets = self.label_sets(self.outputs(inputs, progress)[0], decisions)
        if inputs.index is not None:
            return inputs.series(sets, "labels")
        return sets[0] if inputs.single else sets

    def label_sets(self, probabilities: np.ndarray, decisions: Decisions | None = None) -> list[list[Any]]:
        """The labels of :meth:`predict_sets` for probabilities [texts, classes], the most probable first."""
        conformal = (self.decisions if decisions is None else decisions).conformal
        assert conformal is not None
        classes, members = self.state.encoder.classes, conformal.sets(probabilities)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [[classes[i] for i in row if has[i]] for row, has in zip(order, members, strict=True)]

    def distance(self, texts: Any, *, progress: bool = False) -> Any:
        """How far texts are from the training texts: the Mahalanobis distance of what the head reads.

        Parameters
        ----------
        texts, progress
            As for :meth:`predict`.

        Returns
        -------
        distances : ndarray of float64, shape [texts], or float for one text
            The larger, the more unlike; see :class:`pyllmclf.evaluation.unlike.RowStatistics`.
        quantiles : ndarray of float64, shape [texts], or float for one text
            Share of the held-out texts that are at most as far; NaN without held-out texts.

        Raises
        ------
        DataError
            If a text is not a string.
        UsageError
            If the checkpoint has no statistics of the training texts.
        """
        if self.state.training_rows is None:
            raise UsageError(
                "distance needs statistics of the training texts, which this checkpoint doesn't have; a training with "
                "this version of pyllmclf writes them at its end, except of very wide models and with FSDP."
            )
        inputs = TextInput.of(texts, pairs=self.state.has_pairs)
        _, distances = self.outputs(inputs, progress, distances=True)
        assert distances is not None
        quantiles = quantile_of(distances, self.state.training_rows.reference)
        return (float(distances[0]), float(quantiles[0])) if inputs.single else (distances, quantiles)

    @property
    def measure(self) -> RowMeasure | None:
        """What the rules read of the rows beside probabilities: distances, or nothing."""
        rows = self.state.training_rows
        return None if rows is None or self.decisions.unlike is None else rows.statistics.distances

    def outputs(
        self, inputs: TextInput, progress: bool = False, *, distances: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities of texts, float64, shape [texts, classes]; and their distances [texts], if asked for."""
        if not inputs.texts:
            return np.zeros((0, len(self.state.encoder.classes))), np.zeros(0) if distances else None
        rows = self.state.training_rows
        measure = rows.statistics.distances if distances and rows is not None else None
        found = self.packed_logits(self.packer(inputs.texts), progress=progress, measure=measure)
        logits, measured = self.split_outputs(found)
        return self.probabilities_of(logits), measured

    def split_outputs(self, found: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Logits [texts, classes] and distances [texts] of :meth:`packed_logits`, which has these as a last column."""
        classes = len(self.state.encoder.classes)
        if found.shape[1] == classes:
            return found, None
        return np.ascontiguousarray(found[:, :classes]), found[:, classes].astype(np.float64)

    def probabilities_of(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities of logits, float64, shape [texts, classes]."""
        return softmax(logits) if self.state.label_separator is None else sigmoid(logits)
