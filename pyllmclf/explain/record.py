"""The figures of an explanation: the weight of each word, and the logits that they explain."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..data.readers import Label
from ..text_pair import Text, named_parts, parts_of


@dataclass(frozen=True)
class Weight:
    """A word or a token of a text, and what it adds to the logit.

    Attributes
    ----------
    text : str
        Its characters.
    start, end : int
        Its first character, and the one after its last.
    weight : float or None
        ``None`` where the model didn't read it: it is truncated, or the tokenizer drops it.
    part : int
        1 in the second text of a pair, else 0.
    """

    text: str
    start: int
    end: int
    weight: float | None
    part: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The fields under ``word``, ``start``, ``end`` and ``weight``."""
        return {"word": self.text, "start": self.start, "end": self.end, "weight": self.weight}


@dataclass(frozen=True)
class Record:
    """The figures of an explanation; :class:`.explanation.Explanation` adds the forms in which it is shown.

    Attributes
    ----------
    text : str or TextPair
    target : label
        Class whose logit the weights are about.
    predicted : label
        Most probable class.
    probability : float
        Of the target.
    logit, baseline_logit : float
        Of the target: of the text, and with all its tokens replaced by the baseline. Of a text in windows the means.
    words, tokens : tuple of Weight
        In the order of the text; occlusion gives no weights of tokens.
    method, baseline : str
    steps : int or None
        Points of integration, of integrated gradients.
    """

    text: Text
    target: Label
    predicted: Label
    probability: float
    logit: float
    baseline_logit: float
    words: tuple[Weight, ...]
    method: str
    baseline: str
    steps: int | None = None
    tokens: tuple[Weight, ...] = field(default=(), repr=False)

    @property
    def total(self) -> float:
        """Sum of the words' weights."""
        return float(sum(word.weight for word in self.words if word.weight is not None))

    @property
    def completeness_error(self) -> float:
        """|sum of the weights − (logit − baseline_logit)|.

        The error of the integration rule, of integrated gradients. The other methods promise no sum; it says how far
        from additive they are.
        """
        return abs(self.total - (self.logit - self.baseline_logit))

    @property
    def truncated(self) -> bool:
        """Whether a word was not read."""
        return any(word.weight is None for word in self.words)

    def strongest(self, n: int = 5) -> list[Weight]:
        """The words with the largest weights by magnitude, the largest first."""
        read = [word for word in self.words if word.weight is not None]
        return sorted(read, key=lambda word: -abs(word.weight or 0.0))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Texts, figures and words as JSON has them."""
        pair = len(parts_of(self.text)) > 1
        figures = {
            "target": self.target,
            "predicted": self.predicted,
            "probability": self.probability,
            "logit": self.logit,
            "baseline_logit": self.baseline_logit,
            "completeness_error": self.completeness_error,
            "method": self.method,
            "baseline": self.baseline,
        }
        steps = {} if self.steps is None else {"steps": self.steps}
        words = [word.to_dict() | ({"part": word.part} if pair else {}) for word in self.words]
        return named_parts(self.text) | figures | steps | {"words": words}
