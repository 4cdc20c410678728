"""What test_distributed.py runs in several processes: ``torchrun distributed_training.py ARGUMENTS.json``.

The file holds ``runs``, arguments of ``finetune`` by name, one after the other; ``out``, a folder for what each process
found; and may say that a process is to end: ``{"kill": {"rank": 1, "step": 7, "how": "kill" | "raise" | "term", "once":
FILE}}``, or that one gets other arguments: ``{"of_rank": {"1": {...}}}``.
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

given = json.loads(Path(sys.argv[1]).read_text())
rank = int(os.environ.get("RANK", "0"))
kill = given.get("kill")
losses: list[float] = []
held = 0  # numbers of weights and optimizer state that this process has while it trains
original = Trainer.queue_step


def queue_step(self: Trainer, *args: Any) -> Any:
    global held
    if kill is not None and (rank, self.step) == (kill["rank"], kill["step"]) and not Path(kill["once"]).exists():
        Path(kill["once"]).touch()
        if kill["how"] == "raise":
            raise ValueError("an error of one process alone")
        os.kill(os.getpid(), signal.SIGKILL if kill["how"] == "kill" else signal.SIGTERM)
    queued = original(self, *args)
    losses.append(queued.result()[0])
    state = [tensor for kept in self.optimizer.state.values() for tensor in kept.values() if tensor.dim()]
    held = sum(local_tensor(tensor).numel() for tensor in [*self.model.parameters(), *state])
    return queued


Trainer.queue_step = queue_step  # type: ignore[method-assign]
for name, arguments in given["runs"].items():
    losses.clear()
    arguments |= given.get("of_rank", {}).get(str(rank), {})
    # JSON has no tuples.
    data = {part: tuple(value) for part, value in arguments.items() if part in ("validation", "test")}
    try:
        result = pyllmclf.finetune(train=(TEXTS, LABELS), progress=False, **arguments | data)
    except pyllmclf.PyllmclfError as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    found = {
        "losses": losses,
        "history": [record.to_dict() for record in result.history],
        "metrics": result.metrics,
        "calibration": result.calibration,
        "weights": dict(result.classifier.state.model.state_dict()),
        "held": held,
        "logits": result.classifier.logits(TEXTS),
    }
    torch.save(found, Path(given["out"]) / f"{name}-{rank}.pt")
