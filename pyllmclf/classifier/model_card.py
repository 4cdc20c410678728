"""The model card: ``README.md`` in the hub's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..argument_checks import AUTO
from ..models.architectures.registry import architecture_of, presets
from ..printable import printable
from ..settings import ARGUMENTS
from .state import ClassifierState

# Metrics of both kinds of classifiers -> the hub's names for them.
FIGURES = {"accuracy": "accuracy", "macro_f1": "f1", "log_loss": "log_loss"}


def model_card(state: ClassifierState, *, in_transformers: bool) -> str:
    """Content of the model card: YAML metadata with the figures, then a description.

    Parameters
    ----------
    state : ClassifierState
    in_transformers : bool
        Whether transformers' own class can open the classifier.

    Returns
    -------
    str
        Markdown.
    """
    from huggingface_hub import EvalResult, ModelCardData

    trained_on = _name(state.settings.get("train"))
    name = f"{architecture_of(state.model.config).class_name} on {trained_on}"
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="text",
            dataset_name=trained_on,
            dataset_split=split,
            metric_type=hub_name,
            metric_value=round(float(figures[figure]), 6),
        )
        for split, figures in state.metrics.items()
        if "classifier" not in figures  # those of another training
        for figure, hub_name in FIGURES.items()
        if figure in figures
    ]
    data = ModelCardData(
        library_name="transformers" if in_transformers and state.lora is None else "peft" if in_transformers else None,
        pipeline_tag="text-classification",
        tags=["pyllmclf", "text-classification"],
        base_model=state.hub_id or _packaged(state.settings),
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
        for split, figures in state.metrics.items():
            values = (f"{figures[figure]:.4f}" for figure in FIGURES)
            of = f"{split}, by the classifier trained without them" if "classifier" in figures else split
            lines.append(f"| {of} | {figures['texts']:,} | {' | '.join(values)} |")
    names = [name for name, argument in ARGUMENTS.items() if argument.on_card]
    settings = [(name, state.settings[name]) for name in names if state.settings.get(name) not in (None, AUTO, "")]
    if settings:
        lines += ["", "## Training", "", "| setting | value |", "|---|---|"]
        lines += [f"| {name} | {_code(value)} |" for name, value in settings]
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


def _packaged(settings: Mapping[str, Any]) -> str | None:
    """Hub id of the pretrained preset whose weights a package may have; ``None`` for other models."""
    preset = presets().get(str(settings.get("model")))
    return None if preset is None or settings.get("weights") != "pretrained" else preset.hub_id


def _code(value: Any) -> str:
    """A value as Markdown code, on one line of a table."""
    text = printable(str(value).replace("\n", " ").replace("\r", " ")).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"


def _name(train: Any) -> str:
    """Name of the training data, without the folders of this machine."""
    if not isinstance(train, str):
        return "own data"
    return printable(Path(train).name)
