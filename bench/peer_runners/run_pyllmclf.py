"""pyllmclf's default."""

from __future__ import annotations

import sys

import runner

import pyllmclf
import pyllmclf.api


def train(task: runner.Task) -> runner.Predict:
    return pyllmclf.finetune("minilm", (task.texts, task.labels)).classifier.predict


if __name__ == "__main__":
    sys.exit(runner.main(train, ["pyllmclf", "torch"]))
