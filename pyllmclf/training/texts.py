"""The texts of a training, by split, with their classes; and those that are held out of the training texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..argument_checks import AUTO
from ..checks import is_number
from ..data.labels import Label, LabelEncoder, MultiLabelEncoder, with_classes
from ..data.readers import TextData, without_zero_weights
from ..data.splits import hold_out, read_splits
from ..errors import UsageError
from ..progress import say
from ..settings import Settings


@dataclass(frozen=True)
class Data:
    """Texts and classes of a training.

    Attributes
    ----------
    texts : dict of str to TextData
        ``"train"``, and ``"validation"`` and ``"test"`` where there are such texts.
    encoder : LabelEncoder or MultiLabelEncoder
        Of the training texts.
    """

    texts: Mapping[str, TextData]
    encoder: LabelEncoder | MultiLabelEncoder

    @property
    def has_pairs(self) -> bool:
        """Whether the texts are pairs."""
        return self.texts["train"].has_pairs

    def without(self, split: str) -> Data:
        """The other splits."""
        return replace(self, texts={name: data for name, data in self.texts.items() if name != split})

    def with_held_out(self, seed: int) -> Data | None:
        """The same texts, a part of the training texts as validation texts; ``None`` where they are too few."""
        parts = hold_out(self.texts["train"], seed)
        if parts is None:
            return None
        return replace(self, texts={**self.texts, "train": parts[0], "validation": parts[1]})


def holds_out(settings: Settings, data: Data) -> bool:
    """Whether validation texts are held out of the training texts.

    So it is where there are none, where they are not refused (``validation=False``), and where what is trained or for
    how long is left to the rule.
    """
    return (
        settings.validation is None and "validation" not in data.texts and AUTO in (settings.trainable, settings.epochs)
    )


def read_texts(settings: Settings, classes: list[Label] | None = None) -> Data:
    """Reads the texts of each split, and determines the classes from the training texts.

    Parameters
    ----------
    settings : Settings
    classes : list of str, int or bool, optional
        Classes of the resumed run, in its order.

    Raises
    ------
    UsageError, DataError
        If data can't be read or don't fit the settings.
    """
    separator = settings.separator
    train, validation, test = read_splits(
        settings.train,
        settings.validation,
        settings.test,
        seed=settings.seed,
        classes=classes,
        text_column=settings.text_column,
        text_pair_column=settings.text_pair_column,
        label_column=settings.label_column,
        label_separator=separator,
        empty_texts=settings.empty_texts,
        encoding_errors=settings.encoding_errors,
        sample_weight=settings.sample_weight,
        missing=settings.missing,
        encoding=settings.encoding,
        delimiter=settings.delimiter,
        header=settings.header,
    )
    if settings.pair_truncation != "longest_first" and not train.has_pairs:
        raise UsageError(
            "pair_truncation is about pairs of texts, and the training texts are single; leave it out, or name the "
            "column of the second texts (text_pair_column)."
        )
    encoder: LabelEncoder | MultiLabelEncoder
    if separator is None:
        encoder = LabelEncoder.fit(train, classes)
    else:
        # With several labels, a validation fraction is not stratified, and may hold all texts of a class.
        fraction = validation if is_number(settings.validation) else None
        encoder = MultiLabelEncoder.fit(train, separator, fraction, classes)
    for name, enabled in (("early_stopping", settings.early_stopping is not None), ("calibrate", settings.calibrate)):
        if enabled and validation is None:
            raise UsageError(f"{name} needs validation texts: give validation, as data or as a fraction.")
    if settings.report and validation is None and test is None:
        raise UsageError("report needs texts to measure on: give test or validation.")
    weighted = without_zero_weights(train)  # after the classes, which all texts have
    if len(weighted) < len(train):
        say(f"train: {len(train) - len(weighted):,} texts of weight 0 left out", settings.progress)
    splits = {"train": weighted, "validation": validation, "test": test}
    return Data({split: with_classes(data, encoder) for split, data in splits.items() if data is not None}, encoder)
