"""Trains a classifier: measures on held-out texts, takes the better of layers and head, then trains on all texts."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from ..argument_checks import AUTO
from ..classifier.held_out import BEFORE_REFIT
from ..errors import UsageError
from ..progress import say
from ..settings import CONTRASTIVE, Settings
from .callbacks import resolve_callbacks
from .held_out import before_refit
from .prepare import prepare_run
from .recipes import HELD_OUT, MAY_TAKE_HEAD, MEASURE, PHASE, REFIT, STEPS, Phase
from .result import FinetuneResult, Measured
from .run import PREEMPTED_EARLY, Run
from .session import Session, open_session
from .shared_rows import sharing_rows
from .texts import Data, holds_out, read_texts

PREEMPTED_BETWEEN = "preempted between two trainings; start it again with resume=True (--resume)."


def train(settings: Settings) -> FinetuneResult:
    """Trains the classifier that the settings describe.

    Where there are no validation texts and something is left to the rule, a tenth of the training texts is held out:
    a first training, without them, is measured on them and compared with the baselines; a last one, on all texts,
    gives the classifier. Where what is trained is left to the rule, and the solved head of the frozen model is better
    on the validation texts by more than chance, the head alone is trained.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    UsageError, DataError, ModelError, ResourceError, NonFiniteError, PreemptedError
        As :func:`pyllmclf.finetune`.
    """
    with open_session(settings) as session, ExitStack() as stack:
        with session.preemption.at_once(PREEMPTED_EARLY):
            run, data, some = _prepare_first(session)
        if run.settings.phase == MEASURE or run.settings.may_take_head:
            stack.enter_context(sharing_rows(device=session.device))  # the trainings read the same texts
        result, asked = run.execute(), session.settings
        refits = run.settings.phase == MEASURE
        commit, begun = run.state.revision, run.settings
        if run.settings.may_take_head and run.prefers_head:
            # What a resumed call names of the first training's steps is not for the head.
            left: dict[str, Any] = dict.fromkeys(STEPS, AUTO)
            asked = replace(asked, trainable="head", loss=AUTO, **left)
            baselines = run.baselines
            del run, result
            _release(session)
            with session.preemption.at_once(PREEMPTED_BETWEEN):
                if not refits:
                    _begin_anew(session)
                run = prepare_run(
                    session,
                    asked,
                    some,
                    {},
                    begun=begun,
                    commit=commit,
                    phase=begun.phase,
                    baselines=baselines,
                    saves=not refits,
                )
            result = run.execute()
        if not refits:
            return result
        metrics, held_out = result.metrics["validation"], before_refit(result.classifier.state)
        measured = Measured(metrics | {"classifier": BEFORE_REFIT}, result.baselines, held_out)
        del metrics, held_out
        del run, result
        _release(session)
        say(f"training on all {len(data.texts['train']):,} texts (--no-refit leaves this out)", asked.progress)
        with session.preemption.at_once(PREEMPTED_BETWEEN):
            _begin_anew(session)
            asked = replace(asked, baselines="off")
            run = prepare_run(session, asked, data, {}, begun=begun, commit=commit, phase=REFIT, measured=measured)
        return run.execute()


def _prepare_first(session: Session) -> tuple[Run, Data, Data]:
    """Prepares the first training of this call: the one of the resumed checkpoint, if any.

    Returns
    -------
    run : Run
    data, some : Data
        All texts; and those of this training, without test texts where another one follows.
    """
    asked, recorded = session.settings, session.recorded()
    data = read_texts(asked, recorded.get("classes"))
    begun = recorded.get("settings")
    if begun is None:
        phase: Phase | None = (MEASURE if asked.refit else HELD_OUT) if holds_out(asked, data) else None
        may_take_head = asked.trainable == AUTO and not asked.asks_for_steps and asked.loss != CONTRASTIVE
        # Of the first process, whose callbacks are the only ones that are called.
        may_take_head = session.group.broadcast_object(may_take_head)
    else:  # a run that has begun without held-out texts goes on without them
        phase, may_take_head = begun.get(PHASE), begun.get(MAY_TAKE_HEAD) is True
        _check_phase(asked, phase)
    some, line = data, None
    if phase in (MEASURE, HELD_OUT):
        held_out = data.with_held_out(asked.seed)
        if held_out is None:
            phase, line = None, "too few texts of each class to hold some out: nothing is measured"
        else:
            some = held_out.without("test") if phase == MEASURE else held_out
            count, total = len(some.texts["validation"]), len(data.texts["train"])
            line = f"{count:,} of {total:,} training texts are held out to measure on"
            line += "; the classifier is then trained on all of them" if phase == MEASURE else ""
    if phase == MEASURE:
        if session.folder is not None:
            session.folder.begin_held_out()
        if session.group.is_first:  # logs are those of the training that gives the classifier
            session = replace(session, callbacks=resolve_callbacks(asked.callbacks, None, None))
    run = prepare_run(
        session, asked, some, recorded, phase=phase, may_take_head=may_take_head, all_texts=data.texts["train"]
    )
    if line is not None:
        say(line, asked.progress)
    return run, data, some


def _check_phase(asked: Settings, phase: Phase | None) -> None:
    """Raises :class:`UsageError` where a resumed run would hold out other texts, or train on others at the end."""
    resume = (
        f"{asked.output_dir}: {{}} there; resume with the same settings, or choose another output_dir (--output-dir)."
    )
    if phase is not None and asked.validation is not None:
        raise UsageError(resume.format("validation was left to the run"))
    if phase is not None and asked.refit != (phase != HELD_OUT):
        raise UsageError(resume.format(f"refit was {not asked.refit}"))


def _begin_anew(session: Session) -> None:
    if session.folder is not None:
        session.folder.begin_anew()


def _release(session: Session) -> None:
    """Frees the memory of a training that is over, before the next one counts what is free."""
    gc.collect()
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
