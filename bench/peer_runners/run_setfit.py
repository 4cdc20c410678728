"""SetFit: contrastive training of the sentence encoder on pairs of texts, then a logistic regression."""

from __future__ import annotations

import sys

import runner
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def train(task: runner.Task) -> runner.Predict:
    model = SetFitModel.from_pretrained(task.model)
    data = Dataset.from_dict({"text": task.texts, "label": task.labels})
    trainer = Trainer(model=model, args=TrainingArguments(**task.options), train_dataset=data)
    state = trainer.st_trainer
    task.progress = lambda: {"steps": state.state.global_step, "of": state.state.max_steps}
    trainer.train()
    return model.predict


if __name__ == "__main__":
    sys.exit(runner.main(train, ["setfit", "sentence-transformers", "transformers", "torch"]))
