"""``tune``: chooses among candidates by cross-validation, and trains the winner on all training texts."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import is_number, plain
from ..classifier.held_out import OUT_OF_FOLD, HeldOut
from ..classifier.replaceable import TUNE
from ..compute import Compute
from ..errors import PreemptedError, UnknownArgumentError, UsageError
from ..evaluation.metrics import evaluate_logits, softmax
from ..evaluation.multi_label import evaluate_multi_label, sigmoid
from ..models.architectures.registry import architecture_of
from ..models.hub import find_model
from ..progress import say
from ..settings import CROSS_ENTROPY, NOT_OF_TUNE, OF_CROSS_ENTROPY, Settings
from ..suggestions import unknown_argument
from ..text_pair import Text, named_parts
from ..training.identity import data_sha256
from ..training.preemption import PREEMPTED
from ..training.prepare import prepare_run
from ..training.recipes import PHASE, TUNED
from ..training.report import OutOfFold
from ..training.result import FinetuneResult, Measured
from ..training.run import PREEMPTED_EARLY
from ..training.session import Session, open_session
from ..training.shared_rows import SharedRows, sharing_rows
from ..training.solved_head import assign_folds
from ..training.texts import Data, read_texts
from ..training.trainable import last_blocks
from .candidates import Candidate, default_candidates, fixed_arguments, is_space, listed_candidates
from .evaluations import Evaluations
from .out_of_fold import PROBABILITY, save_out_of_fold
from .report import search_section
from .result import TuneResult
from .search import Fold, Search, Tell, TimeLimit
from .suspicious_labels import label_issues

if TYPE_CHECKING:
    import pandas as pd

TRIALS = 20
"""Candidates that are drawn from a space, where neither ``trials`` nor ``time_limit`` is given."""
MOST_FOLDS = 100
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def tune(
    model: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = "minilm",
    train: Any = None,
    *,
    validation: Any = None,
    test: Any = None,
    candidates: Any = None,
    trials: int | None = None,
    time_limit: float | str | None = None,
    folds: int = 5,
    **arguments: Any,
) -> TuneResult:
    """Chooses the best of several trainings on the user's data, and trains it on all training texts.

    Candidates are compared by stratified cross-validation: all of them on the first fold, the better half on the next
    one, and so on (successive halving, Jamieson and Talwalkar 2016). A solved head takes part in every fold at once.

    Parameters
    ----------
    model : str, path, or sequence of them
        The models of the candidates.
    train, validation, test
        As for :func:`pyllmclf.finetune`. Validation texts, if there are any, take the place of the folds. Test texts
        are read once, by the winner.
    candidates : sequence of dict, or dict, optional
        Arguments of :func:`pyllmclf.finetune` for each candidate; or a dictionary of lists, all combinations of which
        are candidates; or one with distributions of optuna, from which candidates are drawn (``pip install
        'pyllmclf[tune]'``). By default :func:`pyllmclf.tuning.candidates.default_candidates` for each model.
    trials : int, optional
        Most candidates.
    time_limit : float or str, optional
        Seconds, or ``"90s"``, ``"2m"``, ``"1.5h"``: of the whole call, with the winner's training.
    folds : int
        Number of folds; at most as many as there are distinct texts.
    **arguments
        As for :func:`pyllmclf.finetune`, for all candidates. With ``output_dir``, evaluations are kept in its folder
        ``tune``, and ``resume=True`` goes on after the last one.

    Returns
    -------
    TuneResult

    Raises
    ------
    UsageError
        If an argument is invalid, or the time limit too short to train anything; in several processes.
    DataError, ModelError, ResourceError, NonFiniteError, PreemptedError
        As :func:`pyllmclf.finetune`.
    """
    started = time.perf_counter()
    models = [model] if isinstance(model, (str, os.PathLike)) else list(model)
    limit = TimeLimit(seconds_of(time_limit), started)
    _check(models, trials, folds, arguments)
    settings = Settings(model=models[0], train=train, validation=validation, test=test, **arguments)
    with open_session(settings) as session, sharing_rows(device=session.device) as shared:
        if session.group.world_size > 1:
            raise UsageError("tune runs in one process; start it without torchrun.")
        return _tune(session, models, candidates, trials, folds, limit, shared)


def seconds_of(limit: float | str | None) -> float:
    """Seconds of a time limit: a number, or text such as ``"90s"``, ``"2m"`` and ``"1.5h"``; infinity for ``None``.

    Raises
    ------
    UsageError
        If it is neither, or not positive.
    """
    if limit is None:
        return float("inf")
    limit = plain(limit)
    if isinstance(limit, str) and (match := _DURATION.fullmatch(limit.strip())) is not None:
        limit = float(match[1]) * _SECONDS[match[2]]
    if not is_number(limit) or not 0.0 < float(limit) < float("inf"):
        raise UsageError(f"time_limit={limit!r} must be a positive number of seconds, or text such as '90s' or '2m'.")
    return float(limit)


def _check(models: Sequence[Any], trials: Any, folds: Any, arguments: dict[str, Any]) -> None:
    if not models or not all(isinstance(each, (str, os.PathLike)) for each in models):
        raise UsageError(f"model={models!r} must be the name or path of a model, or a sequence of them.")
    if len(set(map(str, models))) < len(models):
        raise UsageError(f"model={models!r} names a model twice.")
    for name, value, least, most in (("trials", trials, 1, float("inf")), ("folds", folds, 2, MOST_FOLDS)):
        if value is not None and not (type(plain(value)) is int and least <= value <= most):
            upper = "" if most == float("inf") else f" and at most {most}"
            raise UsageError(f"{name}={value!r} must be an integer of at least {least}{upper}.")
    known = {each.name for each in fields(Settings)}
    for name in arguments:
        if name in NOT_OF_TUNE:
            raise UsageError(f"tune has no {name}: its trainings are many, and of fixed length.")
        if name not in known:
            own = ("train", "validation", "test", "candidates", "trials", "time_limit", "folds")
            raise UnknownArgumentError(
                unknown_argument("tune", name, [*own, *sorted(known - set(NOT_OF_TUNE))], arguments)
            )


def _tune(
    session: Session,
    models: Sequence[Any],
    candidates: Any,
    trials: int | None,
    folds: int,
    limit: TimeLimit,
    shared: SharedRows,
) -> TuneResult:
    asked = session.settings
    with session.preemption.at_once(PREEMPTED_EARLY):
        recorded = session.recorded()
        if recorded and recorded["settings"].get(PHASE) != TUNED:
            raise UsageError(
                f"output_dir {asked.output_dir} holds a training that is no winner of tune; choose another folder, or "
                "replace it with overwrite=True (--overwrite)."
            )
        # The report is of the texts of the folds where there are no others.
        data = read_texts(replace(asked, report=False), recorded.get("classes"))
        sources = {each: find_model(each, asked.weights, asked.revision) for each in models}
        fixed = fixed_arguments(vars(asked))
        parts, cross_validates = _folds(data, folds, asked.seed)
        listed: list[Candidate] | None = None
        if is_space(candidates):
            from .space import SpaceSampler

            sampler = SpaceSampler(candidates, models, fixed, asked.seed)
            drawn = sampler.draw(trials or (TRIALS if limit.seconds == float("inf") else None))
            tell: Tell | None = sampler.tell
        else:
            if candidates is None:
                classes, steps = len(data.encoder.names), asked.asks_for_steps
                contrasts = not (asked.multi_label or fixed.keys() & {"weights", *OF_CROSS_ENTROPY})
                contrasts = contrasts and asked.trainable != "head" and asked.loss != CROSS_ENTROPY
                listed = default_candidates(sources, fixed, classes, steps=steps, contrasts=contrasts)
            else:
                listed = listed_candidates(candidates, models, fixed)
            drawn, tell = iter(listed[:trials]), None
        quiet = replace(
            asked, output_dir=None, resume=False, overwrite=False, keep_last=1, report=False, progress=False
        )

        def settings_of(candidate: Candidate) -> Settings:
            return replace(quiet, **candidate.arguments)

        # All are checked before the first training.
        trained = [settings_of(each).trainable for each in listed or []]
        if listed is None:
            values = candidates.get("trainable", ())
            trained = list(getattr(values, "choices", values))
        shared.trained_blocks = frozenset(last_blocks(str(each)) or 0 for each in trained) - {0}
        evaluations = _evaluations(session, data, parts, models, candidates, listed, fixed)

        def solves(settings: Settings) -> bool:
            source = sources.get(settings.model)
            frozen = settings.trainable == "head" and not settings.asks_for_steps
            return frozen and source is not None and architecture_of(source.config).prediction_head is None

        search = Search(
            session,
            settings_of,
            data,
            parts,
            cross_validates=cross_validates,
            solves=solves,
            evaluations=evaluations,
            limit=limit,
            balanced=_weighs_classes(asked, candidates),
        )
    message = _preempted(session, evaluations)
    try:
        with session.preemption.at_once(message):
            winner = _chosen_before(search, drawn, tell) or search.run(drawn, tell)
            evaluations.choose(winner.number)
    except PREEMPTED as error:  # of a training
        raise PreemptedError(message) from error
    return _train_winner(session, search, winner, data, recorded)


def _evaluations(
    session: Session,
    data: Data,
    parts: Sequence[Fold],
    models: Sequence[Any],
    candidates: Any,
    listed: list[Candidate] | None,
    fixed: Mapping[str, Any],
) -> Evaluations:
    """Evaluations of this search, with those of the resumed one of the same data, candidates and settings."""
    asked, texts = session.settings, data.texts
    weights = texts["train"].weights
    compute = Compute.resolve(session.device, asked.dtype, asked.backend)
    space = {name: str(value) for name, value in candidates.items()} if listed is None else None
    identity = {
        "data": data_sha256(texts["train"]),
        "validation": data_sha256(texts["validation"]) if "validation" in texts else None,
        "weights": None if weights is None else hashlib.sha256(np.asarray(weights, np.float64).tobytes()).hexdigest(),
        "folds": len(parts),
        "models": [str(each) for each in models],
        "candidates": space if listed is None else [str(each) for each in listed],
        "arguments": {name: str(value) for name, value in sorted(fixed.items())},
        "settings": [asked.seed, asked.multi_label, str(session.device), compute.dtype_name, asked.backend],
    }
    folder = None if session.folder is None else session.folder.part(TUNE)
    return Evaluations(folder, identity, resume=asked.resume)


def _weighs_classes(asked: Settings, candidates: Any) -> bool:
    """Whether classes are weighted, in any candidate: then accuracy is not what is wanted."""
    rows = [candidates] if isinstance(candidates, Mapping) else candidates or []
    return asked.class_weights is not None or any("class_weights" in row for row in rows)


def _chosen_before(search: Search, candidates: Iterator[Candidate], tell: Tell | None) -> Candidate | None:
    """The winner that a resumed search has chosen before it was interrupted; ``None`` if there is none."""
    number, found = search.evaluations.winner, search.evaluations.found
    if number is None:
        return None
    winner = None
    while (candidate := next(candidates, None)) is not None:
        if (candidate.number, 0) not in found and candidate.number not in search.evaluations.failed:
            if tell is None:
                continue
            break  # the last one that was drawn
        search.evaluations.check(candidate.number, str(candidate), [len(labels) for labels in search.labels])
        search.tried.append(candidate)
        winner = candidate if candidate.number == number else winner
        if tell is not None:
            tell(candidate, search.score(candidate, 1)[0] if (candidate.number, 0) in found else None)
    return winner


def _preempted(session: Session, evaluations: Evaluations) -> str:
    if evaluations.folder is None:
        return "preempted."
    if session.folder is not None and session.folder.replaces:
        return "preempted; the earlier run is as it was: start the search again."
    return f"preempted; the evaluations so far are in {evaluations.folder}: go on with resume=True (--resume)."


def _folds(data: Data, folds: int, seed: int) -> tuple[list[Fold], bool]:
    """The folds of the training texts; or the validation texts alone, if there are any."""
    train = data.texts["train"]
    if "validation" in data.texts:
        held_out = data.texts["validation"]
        return [Fold(train, held_out, np.arange(len(held_out)))], False
    first: dict[Text, int] = {}
    groups = np.array([first.setdefault(text, row) for row, text in enumerate(train.texts)])
    labels = data.encoder.encode(train)
    strata = labels if labels.ndim == 1 else np.full(len(train), -1)
    count = min(folds, len(first))
    if count < 2:
        raise UsageError("tune compares candidates on texts that are held out: give at least two different texts.")
    fold_of = assign_folds(strata, groups, count, seed)
    made = []
    for number in range(count):
        rows = np.flatnonzero(fold_of == number)
        rest = np.flatnonzero(fold_of != number)
        made.append(Fold(train.select(rest.tolist()), train.select(rows.tolist()), rows))
    return made, True


def _train_winner(session: Session, search: Search, winner: Candidate, data: Data, recorded: Any) -> TuneResult:
    asked = session.settings
    leaderboard = _leaderboard(search, winner)
    out_of_fold, measured, unseen = None, None, None
    if search.cross_validates:
        out_of_fold, unseen, held_out = _out_of_fold(search, winner, data)
        measured = Measured(unseen.result.to_dict() | {"classifier": OUT_OF_FOLD}, {}, held_out)
    say(f"the best is candidate {winner.number} ({winner}); training it on all training texts", asked.progress)
    with session.preemption.at_once(_preempted(session, search.evaluations)):
        settings = replace(asked, baselines="off", report=False, **winner.arguments)
        run = prepare_run(session, settings, data, recorded, phase=TUNED, measured=measured)
    result = run.execute()
    if out_of_fold is not None and run.folder is not None:
        save_out_of_fold(run.folder.path, out_of_fold)
    values = {each.name: getattr(result, each.name) for each in fields(FinetuneResult)}
    tuned = TuneResult(**values | {"out_of_fold": out_of_fold}, leaderboard=leaderboard)
    if asked.report:
        run.report(search_section(leaderboard, folds=search.cross_validates), _issues(tuned), unseen)
    return tuned


def _issues(result: TuneResult) -> list[dict[str, Any]]:
    """Labels to look at, for the report; none without cleanlab or out-of-fold probabilities, or of several labels."""
    several = result.classifier.state.label_separator is not None
    if several or result.out_of_fold is None or importlib.util.find_spec("cleanlab") is None:
        return []
    return label_issues(result).to_dict("records")


def _leaderboard(search: Search, winner: Candidate) -> list[dict[str, Any]]:
    """Rows of :attr:`TuneResult.leaderboard`: the winner, then those with most folds, by accuracy."""
    rows = []
    names = list(dict.fromkeys(name for candidate in search.tried for name in candidate.arguments))
    for candidate in search.tried:
        folds, std, seconds = search.spread(candidate)
        accuracy, loss = search.score(candidate) if folds else (None, None)
        shown = candidate.shown()
        row = {"rank": 0, "number": candidate.number} | {name: shown.get(name) for name in names}
        row |= {"folds": folds, "accuracy": accuracy, "std": std, "log_loss": None if loss is None else -loss}
        row |= {"seconds": seconds, "failed": search.evaluations.failed.get(candidate.number)}
        rows.append(row)

    def place(row: dict[str, Any]) -> tuple[bool, int, float]:
        return row["number"] != winner.number, -row["folds"], -(row["accuracy"] or 0.0)

    rows.sort(key=place)
    return [row | {"rank": rank} for rank, row in enumerate(rows, 1)]


def _out_of_fold(search: Search, winner: Candidate, data: Data) -> tuple[pd.DataFrame, OutOfFold, HeldOut]:
    """The winner's probabilities of the texts of the folds it was evaluated on, their figures, and their scores."""
    import pandas as pd

    numbers = [n for n in range(len(search.folds)) if (winner.number, n) in search.evaluations.found]
    rows = np.concatenate([search.folds[n].rows for n in numbers])
    order = np.argsort(rows)
    logits = np.concatenate([search.evaluations.found[winner.number, n].logits for n in numbers])[order]
    labels = np.concatenate([search.labels[n] for n in numbers])[order]
    several = labels.ndim == 2
    classes = list(data.encoder.classes)
    result = (evaluate_multi_label if several else evaluate_logits)(logits, labels, classes)
    probabilities = sigmoid(logits) if several else softmax(logits)
    train, rows = data.texts["train"], rows[order]
    assert train.labels is not None
    texts = [named_parts(train.texts[row]) for row in rows]
    columns: dict[str, Any] = {
        "where": [train.where(row) for row in rows],
        **{name: [parts[name] for parts in texts] for name in texts[0]},
        "label": [train.labels[row] for row in rows],
    }
    columns |= {f"{PROBABILITY}{name}": probabilities[:, number] for number, name in enumerate(classes)}
    held_out = HeldOut.sampled(logits, labels, OUT_OF_FOLD, search.session.settings.seed)
    return pd.DataFrame(columns, index=rows), OutOfFold(result, rows), held_out
