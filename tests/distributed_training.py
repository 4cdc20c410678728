"""What test_distributed.py runs in several processes: ``torchrun distributed_training.py ARGUMENTS.json``.

The file holds ``out``, a folder for each process's results, and ``runs`` by name, one after the other:

- ``arguments`` of ``finetune``;
- ``of_rank``: other arguments of one process, ``{"1": {...}}``;
- ``kill``: ``{"rank": 1, "step": 7, "how": "kill" | "raise" | "term"}``, how a process ends at a step; with ``once``, a
  file, only where that does not exist yet;
- ``may_fail``: whether an error of the library is a result, instead of the process's end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from test_resume import LABELS, TEXTS

import pyllmclf
from pyllmclf.sharding import local_tensor
from pyllmclf.training.trainer import Trainer

RANK = int(os.environ.get("RANK", "0"))
queue_step = Trainer.queue_step


class Watched:
    """One run: its losses, the numbers that this process holds, and where it is to end."""

    def __init__(self, kill: dict[str, Any] | None) -> None:
        self.kill = kill
        self.losses: list[float] = []
        self.held = 0  # numbers of weights and optimizer state

    def queue_step(self, trainer: Trainer, *args: Any) -> Any:
        if self.kill is not None and (RANK, trainer.step) == (self.kill["rank"], self.kill["step"]):
            self._end(self.kill["how"])
        queued = queue_step(trainer, *args)
        self.losses.append(queued.result()[0])
        state = [tensor for kept in trainer.optimizer.state.values() for tensor in kept.values() if tensor.dim()]
        self.held = sum(local_tensor(tensor).numel() for tensor in [*trainer.model.parameters(), *state])
        return queued

    def _end(self, how: str) -> None:
        assert self.kill is not None
        if "once" in self.kill:
            if Path(self.kill["once"]).exists():
                return
            Path(self.kill["once"]).touch()
        if how == "raise":
            raise ValueError("an error of one process alone")
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGTERM)


def run(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A training's losses, history, metrics and weights; or its error."""
    watched = Watched(spec.get("kill"))
    Trainer.queue_step = lambda trainer, *args: watched.queue_step(trainer, *args)  # type: ignore[method-assign]
    arguments = spec["arguments"] | spec.get("of_rank", {}).get(str(RANK), {})
    # JSON has no tuples.
    data = {part: tuple(value) for part, value in arguments.items() if part in ("validation", "test")}
    try:
        result = pyllmclf.finetune(train=(TEXTS, LABELS), progress=False, **arguments | data)
    except pyllmclf.PyllmclfError as error:
        message = f"{type(error).__name__}: {error}"
        print(f"{name}: {message}", file=sys.stderr)
        if not spec.get("may_fail"):
            sys.exit(error.exit_code)
        return {"error": message, "exit_code": error.exit_code}
    return {
        "losses": watched.losses,
        "history": [record.to_dict() for record in result.history],
        "metrics": result.metrics,
        "calibration": result.calibration,
        "weights": dict(result.classifier.state.model.state_dict()),
        "held": watched.held,
        "logits": result.classifier.logits(TEXTS),
    }


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    for name, spec in given["runs"].items():
        torch.save(run(name, spec), Path(given["out"]) / f"{name}-{RANK}.pt")
