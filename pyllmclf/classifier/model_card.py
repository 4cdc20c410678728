"""The model card: ``README.md`` in the hub's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..models.architectures.registry import architecture_of
from ..settings import ARGUMENTS
from .state import ClassifierState

# Metrics that the hub shows -> what it calls them.
FIGURES = {"accuracy": "accuracy", "macro_f1": "f1", "log_loss": "log_loss"}  # of both kinds of classifiers


def model_card(state: ClassifierState, *, in_transformers: bool) -> str:
    """Metadata with the figures that are known, then a text for people.

    Parameters
    ----------
    state : ClassifierState
    in_transformers : bool
        Whether transformers' own class opens the classifier.
    """
    from huggingface_hub import EvalResult, ModelCardData

    trained_on = _name(state.settings.get("train"))
    name = f"{architecture_of(state.model.config).class_name} on {trained_on}"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="text",
            dataset_name=trained_on,
            dataset_split=part,
            metric_type=shown,
            metric_value=round(float(figures[figure]), 6),
        )
        for part, figures in state.metrics.items()
        for figure, shown in FIGURES.items()
        if figure in figures
    ]
    data = ModelCardData(
        library_name="transformers" if in_transformers and state.lora is None else "peft" if in_transformers else None,
        pipeline_tag="text-classification",
        tags=["pyllmclf", "text-classification"],
        base_model=state.hub_id,
        model_name=name,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(state, name, in_transformers)}"


def _text(state: ClassifierState, name: str, in_transformers: bool) -> str:
    config, spec = state.model.config, state.model.spec
    lines = [
        f"# {name}",
        "",
        f"A text classifier with {len(state.encoder.names)} classes: {', '.join(map(_code, state.encoder.names))}.",
        "A text may have several of them, or none." if state.label_separator is not None else "A text has one of them.",
        f"{config.n_layers} layers of width {config.width}; attention is "
        f"{'causal' if spec.causal else 'bidirectional'}, a text is read at {_code(spec.pooling)}, and at most "
        f"{state.layout.max_length} of its tokens are.",
    ]
    if state.temperature is not None:
        lines.append(f"Its probabilities were calibrated on validation texts (temperature {state.temperature:.4g}).")
    if state.metrics:
        lines += ["", "## Figures", "", "| texts | number | accuracy | macro-F1 | log loss |", "|---|---|---|---|---|"]
        for part, figures in state.metrics.items():
            values = (f"{figures[figure]:.4f}" for figure in FIGURES)
            lines.append(f"| {part} | {figures['texts']:,} | {' | '.join(values)} |")
    shown = [name for name, declared in ARGUMENTS.items() if declared.on_card]
    known = [(key, state.settings[key]) for key in shown if state.settings.get(key) is not None]
    if known:
        lines += ["", "## Training", "", "| setting | value |", "|---|---|"]
        lines += [f"| {key} | {_code(value)} |" for key, value in known]
    lines += ["", "## Use", "", "```python", "import pyllmclf", "", 'pyllmclf.load("PATH").predict(["a text"])', "```"]
    if in_transformers and state.lora is None:
        lines += [
            "",
            "```python",
            "from transformers import pipeline",
            "",
            'pipeline("text-classification", "PATH")("a text")',
            "```",
        ]
    return "\n".join(lines) + "\n"


def _code(value: Any) -> str:
    """As code in Markdown, in one line of a table."""
    shown = str(value).replace("`", "'").replace("|", "\\|").replace("\n", " ").replace("\r", " ")
    return f"`{shown}`"


def _name(train: Any) -> str:
    """The training data, without the folders of the machine it was trained on."""
    if not isinstance(train, str):
        return "own data"
    return Path(train).name
