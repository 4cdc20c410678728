"""Malformed configurations: of models, of adapters, and of a command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyllmclf import LoRAConfig, ModelError, UsageError
from pyllmclf.cli.config import from_file
from pyllmclf.cli.finetune import finetune
from pyllmclf.models.architectures.modernbert import ModernBertOptions
from pyllmclf.models.architectures.registry import architecture_of, model_config, presets
from pyllmclf.models.config import MOST
from pyllmclf.models.decoder import DecoderOptions
from pyllmclf.models.sequence_classifier import HeadSpec, SequenceClassifier

numbers = st.integers() | st.integers(-2, 5000) | st.floats() | st.floats(0, 1)
values = st.none() | st.booleans() | numbers | st.text(max_size=5) | st.just({}) | st.just([])
MORE = (
    "n_inner", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention", "pad_token_id",
    "is_decoder", "position_embedding_type", "classifier_dropout", "layer_types", "rope_parameters", "rope_scaling",
    "global_attn_every_n_layers", "local_attention", "classifier_pooling", "norm_bias", "attention_bias", "mlp_bias",
    "classifier_bias", "classifier_activation", "global_rope_theta", "local_rope_theta",
)  # fmt: skip
KEYS = sorted({key for preset in presets().values() for key in preset.config} | set(MORE))
FLAGS = ("scale_attention", "scale_attention_by_layer")
FLAGS_OF_DECODERS = ("attention_bias", "output_bias", "mlp_bias")
FLAGS_OF_MODERNBERT = ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    config = model_config(presets()[name].config, name)
    assert model_config(config.raw, name) == config


@settings(max_examples=400, deadline=None)
@given(name=st.sampled_from(sorted(presets())), changes=st.dictionaries(st.sampled_from(KEYS), values, max_size=3))
@example(name="gpt2", changes={"scale_attn_weights": "no"})
@example(name="roberta-base", changes={"pad_token_id": 513})
@example(name="modernbert-base", changes={"rope_parameters": {"full_attention": {"rope_theta": float("nan")}}})
@example(name="modernbert-base", changes={"layer_types": [["full_attention"]] * 22})
def test_changed_configuration(name: str, changes: dict[str, Any]) -> None:
    """Each is refused in a sentence that names the file, or is that of a model."""
    try:
        config = model_config(presets()[name].config | changes, "here/config.json")
    except ModelError as error:
        assert str(error).startswith("here/config.json: ") and len(str(error)) < 400
        return
    sizes = (config.vocab_size, config.n_positions, config.width, config.n_layers, config.n_heads, config.inner_width)
    assert all(type(size) is int and 1 <= size <= MOST for size in sizes)
    assert config.own_head_dim is not None or config.width == config.head_dim * config.n_heads
    assert type(config.kv_heads) is type(config.head_dim) is int and config.n_heads % config.kv_heads == 0
    assert all(isinstance(getattr(config, flag), bool) for flag in FLAGS)
    if isinstance(options := config.options, DecoderOptions):
        assert len(options.windows) == len(options.rotary) == config.n_layers
        assert all(len(rotary.frequencies) == config.head_dim // 2 for rotary in options.rotary)
        assert all(isinstance(getattr(options, flag), bool) for flag in FLAGS_OF_DECODERS)
    elif isinstance(options, ModernBertOptions):
        assert all(isinstance(getattr(options, flag), bool) for flag in FLAGS_OF_MODERNBERT)
        assert len(options.windows) == len(options.rope_theta) == config.n_layers
    least = architecture_of(config).least_parameters(config)
    assert least > 0
    if least < 1 << 33 and config.n_layers <= 48:  # else it is refused before it is made
        with torch.device("meta"):
            model = SequenceClassifier(config, 2, HeadSpec.resolve(config, None, None, None))
        assert sum(p.numel() for p in model.parameters()) > least


@given(given=st.dictionaries(st.sampled_from(["rank", "alpha", "dropout", "scaling", "layers"]), values))
def test_adapter(given: dict[str, Any]) -> None:
    try:
        config = LoRAConfig.coerce(given)
    except UsageError as error:
        assert "lora" in str(error).lower()
        return
    assert type(config.rank) is int and type(config.alpha) is type(config.dropout) is float
    assert config.factor > 0 and 0 <= config.dropout < 1


plain = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@given(options=st.dictionaries(st.sampled_from(["epochs", "learning_rate", "model", "resume", "seed"]), plain))
def test_options_of_a_command(tmp_path_factory: pytest.TempPathFactory, options: dict[str, Any]) -> None:
    """What a file says are the command's defaults, whichever way its names are written."""

    def written(value: Any) -> str:
        if isinstance(value, str):
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        return str(value).lower()

    path = Path(tmp_path_factory.getbasetemp()) / "options.toml"
    lines = [f"{name.replace('_', '-')} = {written(value)}\n" for name, value in options.items()]
    path.write_text("".join(lines), encoding="utf-8")
    application = typer.Typer()
    application.command()(finetune)
    context = typer.Context(typer.main.get_command(application))
    from_file(context, path)
    assert context.default_map == options
