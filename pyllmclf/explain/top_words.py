"""The words that weigh most for a class over many texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from .record import Record


def top_words(explanations: Iterable[Record], label: Any, n: int, *, by: str, min_count: int) -> pd.DataFrame:
    """See :meth:`.explanation.Explanations.top_words`."""
    import pandas as pd

    if by not in ("sum", "mean"):
        raise UsageError(f"by={by!r} is unknown; it is 'sum' or 'mean'.")
    for name, value in (("n", n), ("min_count", min_count)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{name}={value!r} must be a positive integer.")
    chosen = list(explanations)
    targets = list(dict.fromkeys(str(each.target) for each in chosen))
    if label is None:
        if len(targets) > 1:
            raise UsageError(f"the texts were explained for {len(targets)} classes; say which: label={targets[0]!r}.")
    elif str(label) not in targets:
        raise UsageError(f"no text was explained for the class {label!r}; call explain(texts, target={label!r}).")
    else:
        chosen = [each for each in chosen if str(each.target) == str(label)]
    weights: dict[str, list[float]] = defaultdict(list)
    for each in chosen:
        for word in each.words:
            if word.weight is not None and not word.text.isspace():
                weights[word.text.casefold()].append(word.weight)
    rows = [(word, len(own), sum(own), sum(own) / len(own)) for word, own in weights.items() if len(own) >= min_count]
    frame = pd.DataFrame(rows, columns=["word", "count", "sum", "mean"])
    # Words of equal weight come in the order of the alphabet.
    return frame.sort_values([by, "word"], ascending=[False, True]).head(n).reset_index(drop=True)
