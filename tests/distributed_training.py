"""Script that test_distributed.py runs in several processes: ``torchrun distributed_training.py ARGUMENTS.json``.

The file has ``runs``, arguments of ``finetune`` by name, which run in sequence, and ``out``, a folder for the results
of each process. Optionally ``{"kill": {"rank": 1, "step": 7, "how": "kill" | "raise" | "term", "once": FILE}}`` ends a
process, and ``{"of_rank": {"1": {...}}}`` changes the arguments of one.
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

plan = json.loads(Path(sys.argv[1]).read_text())
rank = int(os.environ.get("RANK", "0"))
kill = plan.get("kill")
losses: list[float] = []
elements = 0  # of weights and optimizer state in this process during training
original = Trainer.queue_step


def queue_step(self: Trainer, *args: Any) -> Any:
    global elements
    if kill is not None and (rank, self.step) == (kill["rank"], kill["step"]) and not Path(kill["once"]).exists():
        Path(kill["once"]).touch()
        if kill["how"] == "raise":
            raise ValueError("an error of one process alone")
        os.kill(os.getpid(), signal.SIGKILL if kill["how"] == "kill" else signal.SIGTERM)
    queued = original(self, *args)
    losses.append(queued.result()[0])
    state = [tensor for tensors in self.optimizer.state.values() for tensor in tensors.values() if tensor.dim()]
    elements = sum(local_tensor(tensor).numel() for tensor in [*self.model.parameters(), *state])
    return queued


Trainer.queue_step = queue_step  # type: ignore[method-assign]
for name, arguments in plan["runs"].items():
    losses.clear()
    arguments |= plan.get("of_rank", {}).get(str(rank), {})
    # JSON has no tuples.
    data = {part: tuple(value) for part, value in arguments.items() if part in ("validation", "test")}
    try:
        result = pyllmclf.finetune(train=(TEXTS, LABELS), progress=False, **arguments | data)
    except pyllmclf.PyllmclfError as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    output = {
        "losses": losses,
        "history": [record.to_dict() for record in result.history],
        "metrics": result.metrics,
        "calibration": result.calibration,
        "weights": dict(result.classifier.state.model.state_dict()),
        "held": elements,
        "logits": result.classifier.logits(TEXTS),
    }
    torch.save(output, Path(plan["out"]) / f"{name}-{rank}.pt")
