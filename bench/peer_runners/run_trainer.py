"""Hugging Face's Trainer with its default arguments on AutoModelForSequenceClassification."""

from __future__ import annotations

import sys

import runner
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed


def train(task: runner.Task) -> runner.Predict:
    classes = sorted(set(task.labels))
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    arguments = TrainingArguments("trainer_output", **task.options)
    set_seed(arguments.seed)  # of the new head
    model = AutoModelForSequenceClassification.from_pretrained(task.model, num_labels=len(classes))

    def dataset(columns: dict[str, list]) -> Dataset:
        return Dataset.from_dict(columns).map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)

    rows = dataset({"text": task.texts, "label": [classes.index(each) for each in task.labels]})
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    task.progress = lambda: {"steps": trainer.state.global_step, "of": trainer.state.max_steps}
    trainer.train()
    return lambda texts: [classes[row] for row in trainer.predict(dataset({"text": texts})).predictions.argmax(-1)]


if __name__ == "__main__":
    sys.exit(runner.main(train, ["transformers", "accelerate", "torch"]))
