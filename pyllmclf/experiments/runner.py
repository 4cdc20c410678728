"""Runs rows of a table, stores each result, and reuses stored results in a later call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..argument_checks import AUTO
from ..choices import Weights
from ..compute import Compute, code_sha256, resolve_dtype
from ..data.atomic_folder import write_text
from ..data.fetch import sha256
from ..data.json_text import parse_json
from ..data.named import is_named, load_named
from ..data.readers import TextData
from ..data.sources import read_data, split_sources
from ..data.splits import stratified_split
from ..errors import ModelError, ResourceError, UsageError
from ..models.hub import find_model
from ..settings import Settings
from ..training.prepare import prepare
from ..training.shared_rows import SHARE, SharedRows, sharing_rows
from ..version import __version__
from .bag_of_words import run_bag_of_words
from .table import BASE_MODEL, TableRow

# Fractions of data without splits, as in the published experiments.
VALIDATION, TEST, SPLIT_SEED = 0.1, 0.2, 123
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class RowResult:
    """Result of a row.

    Attributes
    ----------
    row : TableRow
        With the model on which it was run.
    runs : list of dict
        Per seed: ``"seed"``, ``"accuracy"`` by split, ``"train_seconds"``, ``"total_seconds"``,
        ``"tokens_per_second"``.
    skipped : str or None
        Why the row was not run.
    """

    row: TableRow
    runs: list[dict[str, Any]]
    skipped: str | None = None


def read_all_splits(
    data: str, text_column: str | None = None, label_column: str | None = None, text_pair_column: str | None = None
) -> dict[str, TextData]:
    """Reads training, validation and test texts.

    A named data set keeps its splits; missing ones are split off the training texts, 10 % of all for validation and
    20 % for the test.

    Parameters
    ----------
    data : str
        Name of a data set, or path of a file or folder.
    text_column, label_column, text_pair_column : str, optional
        The training texts are pairs where ``text_pair_column`` is given, or their columns have the names of a pair; all
        others are then read as pairs, too.

    Raises
    ------
    UsageError, DataError
        If the data can't be read or split.
    """
    if is_named(data) and "all" not in (named_splits := load_named(data)):
        splits = dict(named_splits)
    else:
        parts = split_sources(data) or {"train": data}
        splits = {}
        for name, part in parts.items():  # in the order of SPLITS
            splits[name] = read_data(
                part,
                default_split="all",
                text_column=text_column,
                label_column=label_column,
                text_pair_column=text_pair_column,
                pairs=splits["train"].has_pairs if "train" in splits else None,
            )
    total = len(splits["train"])
    if "test" not in splits:
        splits["train"], splits["test"] = stratified_split(splits["train"], TEST, SPLIT_SEED)
    if "validation" not in splits:
        fraction = VALIDATION * total / len(splits["train"])
        splits["train"], splits["validation"] = stratified_split(splits["train"], fraction, SPLIT_SEED)
    return {split: splits[split] for split in SPLITS}


def replace_model(row: TableRow, model: str | None, weights: Weights | None) -> TableRow | str:
    """Replaces the model or the weights of a row; returns the reason as a string where the row can't be run so."""
    if row.is_bag_of_words:
        return row
    if model is not None:
        if row.model != BASE_MODEL:
            return f"is about {row.model}, and {model} replaces only {BASE_MODEL}"
        row = replace(row, model=model)
    return row if weights is None else replace(row, weights=weights)


class Runner:
    """Runs rows, and stores their results in a folder.

    Parameters
    ----------
    folder : Path
        Created if it is missing.
    splits : dict of str to TextData
        ``"train"``, ``"validation"`` and ``"test"``, with labels.
    options : dict
        ``device``, ``dtype``, ``backend`` and ``progress`` of :func:`pyllmclf.finetune`.
    overrides : dict
        Settings that replace those of the rows.
    shares_frozen_layers : bool
        Whether what frozen layers give is computed once for all rows and seeds, in memory. The accuracies are the same
        to the bit; the seconds of a row then leave out what an earlier one has computed.

    Raises
    ------
    UsageError, ResourceError
        If an option or an override is invalid for every row, or the folder can't be written.
    """

    def __init__(
        self,
        folder: Path,
        splits: dict[str, TextData],
        options: dict[str, Any],
        overrides: dict[str, Any] | None = None,
        *,
        shares_frozen_layers: bool = False,
    ) -> None:
        # An argument that is wrong for every row raises here: it is no reason to skip them one by one.
        # What is left at "auto" is as the rows say.
        options = {name: value for name, value in options.items() if value != AUTO}
        self._compute = Compute.resolve(*(options.get(name, AUTO) for name in ("device", "dtype", "backend")))
        Settings(**(overrides or {}))
        self.folder, self.splits, self.options = folder, splits, options
        self.overrides = overrides or {}
        self._shared = SharedRows.of_free_memory(SHARE, self._compute.device) if shares_frozen_layers else None
        try:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{folder} can't be written ({error}).") from error
        self._data_hash = _data_sha256(splits)
        self._model_hashes: dict[str, str] = {}

    def run(
        self, rows: Sequence[TableRow | tuple[TableRow, str]], seeds: Sequence[int], say: Callable[[str], None]
    ) -> Iterator[list[RowResult]]:
        """Yields the results of all rows so far, after each row.

        Parameters
        ----------
        rows : sequence of TableRow or (TableRow, str)
            A tuple is a row and the reason why it is skipped.
        seeds : sequence of int
            Each row is run once per seed.
        say : callable
            Takes lines of progress.
        """
        results: list[RowResult] = []
        for row in rows:
            result = RowResult(row[0], [], row[1]) if isinstance(row, tuple) else self._run_row(row, seeds, say)
            if result.skipped is not None:
                say(f"row {result.row.name}: skipped: {result.skipped}")
            results.append(result)
            yield results

    def _run_row(self, row: TableRow, seeds: Sequence[int], say: Callable[[str], None]) -> RowResult:
        runs = []
        for seed in seeds:
            try:
                path = self.folder / "runs" / f"{self._key(row, seed)}.json"
                result = _read_result(path)
                if result is None:
                    say(f"row {row.name}, seed {seed}: {row.describe()}")
                    result = self._run_seed(row, seed)
                    write_text(path, json.dumps(result, indent=2))
                else:
                    say(f"row {row.name}, seed {seed}: reused from {path}")
            except (ModelError, UsageError) as error:  # the model is unavailable, or has fewer blocks
                return RowResult(row, [], str(error))
            runs.append(result | {"seed": seed})
        return RowResult(row, runs)

    def _run_seed(self, row: TableRow, seed: int) -> dict[str, Any]:
        if row.is_bag_of_words:
            return run_bag_of_words(self.splits, seed)
        assert all(split.labels is not None for split in self.splits.values())
        data: dict[str, Any] = {name: (split.texts, split.labels) for name, split in self.splits.items()}
        arguments: dict[str, Any] = data | row.settings | self.overrides | self.options
        sharing = nullcontext() if self._shared is None else sharing_rows(self._shared)
        with sharing, prepare(Settings(model=row.model, weights=row.weights, seed=seed, **arguments)) as run:
            result = run.execute()
            on_train = run.evaluate("train")
        return {
            "accuracy": {
                "train": on_train.accuracy,
                "validation": result.metrics["validation"]["accuracy"],
                "test": result.metrics["test"]["accuracy"],
            },
            "train_seconds": result.timing["train_seconds"],
            "total_seconds": result.timing["total_seconds"] + on_train.seconds,
            "tokens_per_second": result.timing["tokens_per_second"],
        }

    def _key(self, row: TableRow, seed: int) -> str:
        """Hashes what a result depends on: data, seed, model, settings, device, code and numerics."""
        fields: dict[str, Any] = {"data": self._data_hash, "seed": seed}
        if row.is_bag_of_words:
            fields |= {"model": row.name, "pyllmclf": __version__, "scikit-learn": version("scikit-learn")}
        else:
            settings = row.settings | self.overrides
            dtype = self.options.get("dtype", settings.get("dtype", AUTO))
            fields |= {
                "model": self._model_sha256(row),
                "weights": row.weights,
                "settings": settings,
                **({} if self._shared is None else {"shares_frozen_layers": True}),
                "device": str(self._compute.device),
                "dtype": str(resolve_dtype(dtype, self._compute.device)),
                "code": code_sha256(),
                "arithmetic": self._compute.numerics(),
            }
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]

    def _model_sha256(self, row: TableRow) -> str:
        """Hashes the model's configuration, tokenizer, prompt and weights, once per model.

        Raises
        ------
        ModelError
            If a file is unavailable.
        """
        name = f"{row.model} {row.weights}"
        if name not in self._model_hashes:
            source = find_model(row.model, row.weights)
            digest = hashlib.sha256(repr(source.config).encode())
            digest.update(source.tokenizer.to_json().encode())
            digest.update(source.prompt.encode())
            if source.folder is not None and row.weights == "pretrained":
                for path in sorted(source.folder.glob("*.safetensors")):
                    digest.update(sha256(path).encode())
            self._model_hashes[name] = digest.hexdigest()
        return self._model_hashes[name]


def _data_sha256(splits: dict[str, TextData]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(json.dumps([name, split.texts, list(map(str, split.labels or []))]).encode())
    return digest.hexdigest()


def _read_result(path: Path) -> dict[str, Any] | None:
    """Reads a stored result; ``None`` if it is missing or incomplete."""
    try:
        result = parse_json(path.read_text(encoding="utf-8"))
        return result if set(result["accuracy"]) == set(SPLITS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
