"""Trains a classifier: measures on held-out texts, takes the better of layers and head, then trains on all texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..argument_checks import AUTO
from ..checks import as_json
from ..progress import say
from ..settings import Settings
from .prepare import prepare_run
from .recipes import MEASURE, PHASE, REFIT, Phase
from .result import FinetuneResult, Measured
from .run import PREEMPTED_EARLY, Run
from .session import Session, open_session
from .texts import Data, holds_out, read_texts

BEFORE_REFIT = "before_refit"
PREEMPTED_BETWEEN = "preempted between two trainings; start it again with resume=True (--resume)."


def train(settings: Settings) -> FinetuneResult:
    """Trains the classifier that the settings describe.

    Where there are no validation texts and something is left to the rule, a tenth of the training texts is held out:
    a first training, without them, is measured on them and compared with the baselines; a second one, on all texts,
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
    with open_session(settings) as session:
        asked = session.settings
        # Observers see one training.
        asked = replace(asked, refit=asked.refit and asked.logs is None and asked.callbacks is None)
        may_take_head = asked.trainable == AUTO and not asked.asks_for_steps
        with session.preemption.at_once(PREEMPTED_EARLY):
            recorded = session.recorded()
            data = read_texts(asked, recorded.get("classes"))
            phase, some = _first_phase(asked, data, recorded)
            run = prepare_run(session, asked, some, recorded, phase=phase)
            _announce(asked, data, some, phase)
        result = run.execute(may_take_head=may_take_head)
        refits = phase == MEASURE and asked.refit
        pinned = _pinned(asked, run)
        if may_take_head and run.prefers_head:
            asked, baselines = replace(asked, trainable="head"), run.baselines
            del run, result  # and the model
            with session.preemption.at_once(PREEMPTED_BETWEEN):
                if not refits:
                    _begin_anew(session)
                run = prepare_run(session, asked, some, pinned, phase=phase, baselines=baselines, saves=not refits)
            result = run.execute()
        if not refits:
            return result
        asked = replace(asked, trainable=run.settings.trainable, baselines="off")
        measured = Measured(result.metrics["validation"] | {"classifier": BEFORE_REFIT}, result.baselines)
        del run, result
        say(f"training on all {len(data.texts['train']):,} texts", asked.progress)
        with session.preemption.at_once(PREEMPTED_BETWEEN):
            _begin_anew(session)
            run = prepare_run(session, asked, data, pinned, phase=REFIT, measured=measured)
        return run.execute()


def _first_phase(asked: Settings, data: Data, recorded: Mapping[str, Any]) -> tuple[Phase | None, Data]:
    """What the first training of this call is part of, and its texts: those of the resumed checkpoint, if any."""
    begun = recorded.get("settings")
    phase = None if begun is None else begun.get(PHASE)
    # A run that has begun without held-out texts goes on without them.
    if phase == REFIT or (begun is not None and phase is None) or not holds_out(asked, data):
        return phase, data
    held_out = data.with_held_out(asked.seed)
    if held_out is None:
        return None, data
    return MEASURE, held_out.without("test") if asked.refit else held_out


def _announce(asked: Settings, data: Data, some: Data, phase: Phase | None) -> None:
    """Says how many texts are held out, or that they are too few."""
    if phase == MEASURE:
        count, total = len(some.texts["validation"]), len(data.texts["train"])
        then = "; the classifier is then trained on all of them" if asked.refit else ""
        say(f"{count:,} of {total:,} training texts are held out to measure on{then}", asked.progress)
    elif phase is None and holds_out(asked, data):
        say("too few texts to hold some out: nothing is measured", asked.progress)


def _pinned(asked: Settings, run: Run) -> dict[str, Any]:
    """What a later training takes over from this one, as a resumed one does from its checkpoint: the hub's commit."""
    begun_with = {"model": as_json(asked.model), "revision": asked.revision}
    return {"base": {"revision": run.state.revision}, "settings": begun_with}


def _begin_anew(session: Session) -> None:
    if session.folder is not None:
        session.folder.begin_anew()
