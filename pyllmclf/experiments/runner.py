"""Runs rows of a table, keeps each result, and goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..choices import Weights
from ..compute import Compute, code_sha256
from ..data.atomic_folder import write_text
from ..data.fetch import sha256
from ..data.json_text import parse_json
from ..data.named import is_named, load_named
from ..data.readers import TextData
from ..data.sources import read_data
from ..data.splits import stratified_split
from ..errors import ModelError, ResourceError, UsageError
from ..models.hub import find_model
from ..settings import Settings
from ..training.prepare import prepare
from ..version import __version__
from .bag_of_words import run_bag_of_words
from .table import REPLACED, TableRow

# Of data that come in one part: the published shares for validation and test.
VALIDATION, TEST, SPLIT_SEED = 0.1, 0.2, 123
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class RowResult:
    """What running a row gave.

    Attributes
    ----------
    row : TableRow
        With the model that it was run on.
    runs : list of dict
        For each seed: ``seed``, ``accuracy`` by part, ``train_seconds``, ``total_seconds``, ``tokens_per_second``.
    skipped : str or None
        Why the row was not run.
    """

    row: TableRow
    runs: list[dict[str, Any]]
    skipped: str | None = None


def read_parts(data: str, text_column: str | None = None, label_column: str | None = None) -> dict[str, TextData]:
    """Training, validation and test texts.

    A named data set's own parts; what is missing is split off, 10 % for validation and 20 % for a test.
    """
    if is_named(data) and "all" not in (parts := load_named(data)):
        parts = dict(parts)
    else:
        parts = {"train": read_data(data, default_split="all", text_column=text_column, label_column=label_column)}
    whole = len(parts["train"])
    if "test" not in parts:
        parts["train"], parts["test"] = stratified_split(parts["train"], TEST, SPLIT_SEED)
    if "validation" not in parts:
        share = VALIDATION * whole / len(parts["train"])
        parts["train"], parts["validation"] = stratified_split(parts["train"], share, SPLIT_SEED)
    return {name: parts[name] for name in PARTS}


def placed(row: TableRow, model: str | None, weights: Weights | None) -> TableRow | str:
    """The row on another model or other weights; or why it can't be."""
    if row.is_bag_of_words:
        return row
    if model is not None:
        if row.model != REPLACED:
            return f"is about {row.model}, and {model} takes the place of {REPLACED} alone"
        row = replace(row, model=model)
    return row if weights is None else replace(row, weights=weights)


class Runner:
    """Runs rows and keeps their results in a folder.

    Parameters
    ----------
    folder : Path
    parts : dict of str to TextData
    options : dict
        ``device``, ``dtype``, ``backend`` and ``progress`` of :func:`pyllmclf.finetune`.
    overrides : dict
        Settings that take the place of the rows' own.

    Raises
    ------
    ResourceError
        If the folder can't be written.
    """

    def __init__(
        self, folder: Path, parts: dict[str, TextData], options: dict[str, Any], overrides: dict[str, Any] | None = None
    ) -> None:
        # What is wrong for every row is no reason to skip them one by one.
        self._compute = Compute.resolve(*(options.get(name, "auto") for name in ("device", "dtype", "backend")))
        Settings(**(overrides or {}))
        self.folder, self.parts, self.options = folder, parts, options
        self.overrides = overrides or {}
        try:
            (folder / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{folder} can't be written ({error}).") from error
        self._data_hash = _hash_of(parts)
        self._model_hashes: dict[str, str] = {}

    def run(
        self, rows: Sequence[TableRow | tuple[TableRow, str]], seeds: Sequence[int], say: Callable[[str], None]
    ) -> Iterator[list[RowResult]]:
        """All results so far, again after each row; a tuple is a row and why it is skipped."""
        results: list[RowResult] = []
        for row in rows:
            result = RowResult(row[0], [], row[1]) if isinstance(row, tuple) else self._row(row, seeds, say)
            if result.skipped is not None:
                say(f"row {result.row.name}: skipped: {result.skipped}")
            results.append(result)
            yield results

    def _row(self, row: TableRow, seeds: Sequence[int], say: Callable[[str], None]) -> RowResult:
        runs = []
        for seed in seeds:
            try:
                path = self.folder / "runs" / f"{self._key(row, seed)}.json"
                found = _read(path)
                if found is None:
                    say(f"row {row.name}, seed {seed}: {row.describe()}")
                    found = self._run(row, seed)
                    write_text(path, json.dumps(found, indent=2))
                else:
                    say(f"row {row.name}, seed {seed}: kept in {path}")
            except (ModelError, UsageError) as error:  # a model that is not to be had, or that has no such blocks
                return RowResult(row, [], str(error))
            runs.append(found | {"seed": seed})
        return RowResult(row, runs)

    def _run(self, row: TableRow, seed: int) -> dict[str, Any]:
        if row.is_bag_of_words:
            return run_bag_of_words(self.parts, seed)
        assert all(part.labels is not None for part in self.parts.values())
        data: dict[str, Any] = {name: (part.texts, part.labels) for name, part in self.parts.items()}
        arguments: dict[str, Any] = data | row.settings | self.overrides | self.options
        with prepare(Settings(model=row.model, weights=row.weights, seed=seed, **arguments)) as run:
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
        """What a result is a function of."""
        described: dict[str, Any] = {"data": self._data_hash, "seed": seed}
        if row.is_bag_of_words:
            described |= {"model": row.name, "pyllmclf": __version__, "scikit-learn": version("scikit-learn")}
        else:
            settings = row.settings | self.overrides
            described |= {
                "model": self._model(row),
                "weights": row.weights,
                "settings": settings,
                "device": str(self._compute.device),
                "dtype": str(self._compute.dtype),
                "code": code_sha256(),
                "arithmetic": self._compute.numerics(),
            }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]

    def _model(self, row: TableRow) -> str:
        """A hash of the model's configuration and weights.

        Raises
        ------
        ModelError
            If they are not to be had.
        """
        known = f"{row.model} {row.weights}"
        if known not in self._model_hashes:
            source = find_model(row.model, row.weights)
            digest = hashlib.sha256(repr(source.config).encode())
            digest.update(source.tokenizer.to_json().encode())
            if source.folder is not None and row.weights == "pretrained":
                for path in sorted(source.folder.glob("*.safetensors")):
                    digest.update(sha256(path).encode())
            self._model_hashes[known] = digest.hexdigest()
        return self._model_hashes[known]


def _hash_of(parts: dict[str, TextData]) -> str:
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(json.dumps([name, part.texts, list(map(str, part.labels or []))]).encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """A kept result; ``None`` if there is none or it is incomplete."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
        return found if set(found["accuracy"]) == set(PARTS) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
