"""Explains texts: from strings to the weights of their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from .. import ops
from ..compute import Compute
from ..data.labels import LabelEncoder, MultiLabelEncoder
from ..data.row_layout import RowLayout
from ..data.tokenizers import Tokenizer
from ..errors import UsageError
from ..evaluation.metrics import softmax
from ..evaluation.multi_label import sigmoid
from ..models.layers import Embedding
from ..models.sequence_classifier import SequenceClassifier
from ..progress import progress_bar
from ..text_pair import Text, parts_of
from .baseline import GRADIENT_X_INPUT, INTEGRATED_GRADIENTS, METHODS, OCCLUSION, Baseline
from .explanation import Explanation, Weight
from .gradients import gradient_x_input, integrated_gradients
from .occlusion import occlusion
from .rows import MovedRows
from .tokens import TextTokens, TokenizedTexts
from .twin import without_parameter_gradients

# Rows of a batch. On a CPU as for classifying; on a GPU fewer, since all layers keep tensors for the backward pass.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
STEPS = 32
MOST_STEPS = 1024


@dataclass(frozen=True)
class Explainer:
    """Explains texts by one method.

    Parameters
    ----------
    model : SequenceClassifier
    tokenizer : Tokenizer
    encoder : LabelEncoder or MultiLabelEncoder
    layout : RowLayout
    compute : Compute
        Device and backend; the computation is in fp32.
    method : {"integrated_gradients", "gradient_x_input", "occlusion"}
    steps : int
        Points of integration.
    baseline : {"pad", "mask", "unk", "zero"} or None
    batch_tokens : int or None

    Raises
    ------
    UsageError
        If an argument is wrong.
    """

    model: SequenceClassifier
    tokenizer: Tokenizer
    encoder: LabelEncoder | MultiLabelEncoder
    layout: RowLayout
    compute: Compute
    method: str = INTEGRATED_GRADIENTS
    steps: int = STEPS
    baseline: str | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method={self.method!r} is unknown; it is one of {', '.join(METHODS)}.")
        check_count("steps", self.steps, MOST_STEPS)
        if self.method != INTEGRATED_GRADIENTS and self.steps != STEPS:
            raise UsageError(f"steps are those of integrated gradients; leave them out with method={self.method!r}.")
        if self.batch_tokens is not None:
            check_count("batch_tokens", self.batch_tokens)
        self._baseline()

    def _baseline(self) -> Baseline:
        tables = embedding_tables(self.model)
        return Baseline.of(self.baseline, self.method, self.tokenizer, tables[0], alone=len(tables) == 1)

    def explain(
        self, texts: Sequence[Text], targets: np.ndarray | None, *, progress: bool = False
    ) -> list[Explanation]:
        """Explains texts.

        Parameters
        ----------
        texts : sequence of str or of TextPair
        targets : ndarray of int64, shape [texts], or None
            Class of each text whose logit is explained; the most probable one by default.
        progress : bool
            Whether a bar is shown.

        Raises
        ------
        DataError
            If a text can't be tokenized.
        NonFiniteError
            If a logit is not a finite number.
        """
        if not texts:
            return []
        tokenized = TokenizedTexts(texts, self.tokenizer, self.layout, self.model.config.vocab_size)
        baseline, text_of = self._baseline(), tokenized.text_of
        with progress_bar(None, "pass", progress) as bar, ops.use_backend(self.compute.backend):
            rows = MovedRows(
                without_parameter_gradients(self.model),
                tokenized,
                embedding_tables(self.model)[0],
                baseline.row,
                self.compute.device,
                self.batch_tokens or BATCH_TOKENS[self.compute.device.type],
                bar.update,
            )
            logits, without = rows.logits(1.0), rows.logits(0.0)
            whole = tokenized.packer.by_text(logits)
            chosen = whole.argmax(axis=1) if targets is None else targets
            weights = self._weights(rows, baseline, logits, chosen[text_of])
        results = Results(self, texts, baseline.name, whole, tokenized.packer.by_text(without), chosen)
        return [results.explanation(text, *weights.of_text(text)) for text in range(len(texts))]

    def _weights(self, rows: MovedRows, baseline: Baseline, logits: np.ndarray, targets: np.ndarray) -> WindowWeights:
        tokenized = rows.texts
        if self.method == OCCLUSION:
            words = [np.array(tokenized.tokens[text].word_of, dtype=np.int64) for text in tokenized.text_of]
            word_of = [words[window][places] for window, places in enumerate(tokenized.places)]
            return WindowWeights(tokenized, None, occlusion(rows, logits, targets, word_of, baseline.token))
        if self.method == GRADIENT_X_INPUT:
            return WindowWeights(tokenized, gradient_x_input(rows, targets))
        return WindowWeights(tokenized, integrated_gradients(rows, targets, self.steps))


@dataclass(frozen=True)
class WindowWeights:
    """Weights of tokens, or of words, of each window; those of a text are the means over its windows.

    The logits of a text in windows are their windows' means, so that weights add up as they do within a window.

    Attributes
    ----------
    tokenized : TokenizedTexts
    tokens : list of ndarray, or None
    words : list of dict of int to float, or None
    """

    tokenized: TokenizedTexts
    tokens: list[np.ndarray] | None
    words: list[dict[int, float]] | None = None

    def of_text(self, text: int) -> tuple[TextTokens, list[float | None] | None, list[float | None]]:
        """The tokens of a text; weight of each, if there are some; weight of each word."""
        tokenized, own = self.tokenized, self.tokenized.tokens[text]
        bounds = tokenized.packer.window_bounds
        windows = range(text, text + 1) if bounds is None else range(bounds[text], bounds[text + 1])
        words: list[float | None] = [None] * len(own.words)
        if self.tokens is None:
            assert self.words is not None
            for window in windows:
                for word, weight in self.words[window].items():
                    words[word] = (words[word] or 0.0) + weight / len(windows)
            return own, None, words
        tokens: list[float | None] = [None] * len(own.ids)
        for window in windows:
            for place, weight in zip(tokenized.places[window], self.tokens[window].tolist(), strict=True):
                tokens[place] = (tokens[place] or 0.0) + weight / len(windows)
        for word, of_token in zip(own.word_of, tokens, strict=True):
            if word >= 0 and of_token is not None:
                words[word] = (words[word] or 0.0) + of_token
        return own, tokens, words


@dataclass(frozen=True)
class Results:
    """Makes the explanations of texts from their figures.

    Attributes
    ----------
    explainer : Explainer
    texts : sequence of str or of TextPair
    baseline : str
    logits, baseline_logits : ndarray, shape [texts, classes]
    targets : ndarray of int64, shape [texts]
    """

    explainer: Explainer
    texts: Sequence[Text]
    baseline: str
    logits: np.ndarray
    baseline_logits: np.ndarray
    targets: np.ndarray

    def explanation(
        self, text: int, own: TextTokens, tokens: list[float | None] | None, words: list[float | None]
    ) -> Explanation:
        """The explanation of a text, from the weights of its tokens and words."""
        explainer, strings = self.explainer, parts_of(self.texts[text])
        classes, target = explainer.encoder.classes, int(self.targets[text])
        several = isinstance(explainer.encoder, MultiLabelEncoder)
        probabilities = (sigmoid if several else softmax)(self.logits[text : text + 1])[0]
        spans = zip(own.parts, own.spans, strict=True)
        weights_of_tokens = (
            []
            if tokens is None
            else [
                Weight(strings[part][begin:end], begin, end, weight, part)
                for (part, (begin, end)), weight in zip(spans, tokens, strict=True)
            ]
        )
        return Explanation(
            text=self.texts[text],
            target=classes[target],
            predicted=classes[int(self.logits[text].argmax())],
            probability=float(probabilities[target]),
            logit=float(self.logits[text, target]),
            baseline_logit=float(self.baseline_logits[text, target]),
            words=tuple(
                Weight(strings[part][begin:end], begin, end, weight, part)
                for (part, begin, end), weight in zip(own.words, words, strict=True)
            ),
            method=explainer.method,
            baseline=self.baseline,
            steps=explainer.steps if explainer.method == INTEGRATED_GRADIENTS else None,
            tokens=tuple(weights_of_tokens),
        )


def embedding_tables(model: SequenceClassifier) -> list[Tensor]:
    """Tables whose rows a model adds, each of shape [entries, embedding_width]; the first one is that of the tokens."""
    modules = (module for stage in model.backbone.stages[0] for module in stage.modules())
    return [module.weight.detach() for module in modules if isinstance(module, Embedding)]


def check_count(name: str, value: Any, most: int | None = None) -> None:
    """Raises :class:`UsageError` unless a value is an integer from 1 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= (most or value):
        limit = "a positive integer" if most is None else f"an integer from 1 to {most}"
        raise UsageError(f"{name}={value!r} must be {limit}.")
