"""Whole models against transformers: hidden states, logits, loss and every gradient, packed against padded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import CPU_BACKENDS, relative_error
from models import FAMILIES, LABELS, MORE, TEXTS, Folders, our_model, packer_of, padded
from transformers import AutoModelForSequenceClassification

from pyllmclf import ops
from pyllmclf.models.architectures.registry import architecture_of, model_config, presets
from pyllmclf.models.hub import find_model
from pyllmclf.models.layers import in_dtype
from pyllmclf.models.sequence_classifier import HeadSpec, SequenceClassifier
from pyllmclf.models.weights import init_weights, load_weights

TOLERANCE = 1e-5
CASES = [(family, name) for family, (_, configs) in FAMILIES.items() for name in configs]


def their_gradient(theirs: torch.nn.Module, model: SequenceClassifier, name: str) -> torch.Tensor:
    """Gradient of transformers' parameter that is our ``name``, in our layout."""
    architecture = architecture_of(model.config)
    gradient = dict(theirs.named_parameters())[architecture.file_name(name)].grad
    assert gradient is not None
    return gradient.mT if architecture.transposed is not None and architecture.transposed.search(name) else gradient


# Biases of keys, and others whose gradient is measured on another's scale. DeBERTa's have a true gradient where scores
# have a term of the key and the position.
SHIFTS = {
    "attention.key.bias": "attention.query.bias",
    "self.key.bias": "self.query.bias",
    "k_lin.bias": "q_lin.bias",
    "attn.k.bias": "attn.q.bias",
    "self.key_proj.bias": "self.query_proj.bias",
    "self.pos_key_proj.bias": "self.query_proj.bias",
    "encoder.LayerNorm.bias": "encoder.LayerNorm.weight",
}


def measure_of_shift(name: str) -> str | None:
    """Name of the parameter on whose scale a gradient is measured, where ``name`` may shift a query's scores alike."""
    found = (name.removesuffix(shift) + measure for shift, measure in SHIFTS.items() if name.endswith(f".{shift}"))
    return next(found, None)


@pytest.mark.parametrize(("family", "name"), CASES)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_parity(model_folder: Folders, family: str, name: str, backend: str) -> None:
    folder = model_folder(family, name)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    # transformers' classification models drop nothing here: every rate of the configuration is 0.
    theirs.train()
    ours, tokenizer = our_model(folder)
    packer = packer_of(tokenizer, ours.config.n_positions)
    ids, mask = padded(packer, tokenizer.pad_token_id)
    labels = torch.tensor(LABELS)

    expected = theirs(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    expected_loss = F.cross_entropy(expected.logits, labels)
    expected_loss.backward()
    batch = packer.batch(range(len(packer)))
    with ops.use_backend(backend):
        hidden = ours.hidden_states(batch)
        logits = ours(batch)
        loss = F.cross_entropy(logits, labels)
        loss.backward()

    assert relative_error(hidden.detach(), expected.hidden_states[-1][mask.bool()].detach()) < TOLERANCE
    assert relative_error(logits.detach(), expected.logits.detach()) < TOLERANCE
    assert relative_error(loss.detach(), expected_loss.detach()) < TOLERANCE
    compared = 0
    gradients = {n: their_gradient(theirs, ours, n) for n, _ in ours.named_parameters()}
    for parameter_name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        found, other = parameter.grad, gradients[parameter_name]
        if measure := measure_of_shift(parameter_name):
            # If it shifts every score of a query alike, it has no true gradient.
            scale = torch.maximum(gradients[measure].abs().max(), other.abs().max())
            assert float((found - other).abs().max() / scale) < TOLERANCE, parameter_name
        else:
            assert relative_error(found, other) < TOLERANCE, parameter_name
        compared += 1
    assert compared == len(list(theirs.parameters()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "first", "mean", "last_position"])
@pytest.mark.parametrize("causal", [True, False])
def test_logits_do_not_depend_on_the_batch(model_folder: Folders, family: str, pooling: str, causal: bool) -> None:
    model, tokenizer = our_model(model_folder(family), pooling=pooling, causal=causal)
    packer = packer_of(tokenizer, 40)
    with torch.no_grad():
        together = model(packer.batch(range(len(packer))))
        backwards = model(packer.batch(range(len(packer) - 1, -1, -1))).flip(0)
        alone = torch.cat([model(packer.batch([i])) for i in range(len(packer))])
    assert relative_error(backwards, together) < 1e-6
    assert relative_error(alone, together) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_causal_switch_and_pooling_change_the_result(model_folder: Folders, family: str) -> None:
    folder = model_folder(family)
    logits = {}
    for pooling in ("first", "last", "mean"):
        for causal in (True, False):
            model, tokenizer = our_model(folder, pooling=pooling, causal=causal)
            packer = packer_of(tokenizer, 40)
            with torch.no_grad():
                logits[pooling, causal] = model(packer.batch([2]))
    values = list(logits.items())
    for i, (_, one) in enumerate(values):
        for _, other in values[i + 1 :]:
            assert relative_error(one, other) > 1e-4


def test_causal_first_token_sees_itself_only(model_folder: Folders) -> None:
    model, tokenizer = our_model(model_folder("gpt2"), pooling="first")
    packer = packer_of(tokenizer, 40, ["hello there", "h"])
    with torch.no_grad():
        logits = model(packer.batch([0, 1]))
    assert relative_error(logits[0], logits[1]) < 1e-6


@pytest.mark.parametrize("name", [n for n, p in presets().items() if p.hub_id])
def test_presets_count_the_published_parameters(name: str) -> None:
    published = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "bert-base-uncased": 109_482_240,
        "bert-base-cased": 108_310_272,
        "bert-large-uncased": 335_141_888,
        "bert-large-cased": 333_579_264,
        "minilm": 22_713_216,
        "bge-small-en-v1.5": 33_360_000,
        "gte-small": 33_360_000,
        "e5-small-v2": 33_360_000,
        "multilingual-e5-small": 117_653_760,
        # Without the pooler, which their classifiers don't use.
        "roberta-base": 124_055_040,
        "roberta-large": 354_310_144,
        "distilbert-base-uncased": 66_362_880,
        "distilbert-base-cased": 65_190_912,
        "modernbert-base": 149_014_272,
        "modernbert-large": 394_781_696,
        "smollm2-135m": 134_515_008,
        "smollm2-360m": 361_821_120,
        "tinyllama-1.1b": 1_100_048_384 - 32_000 * 2_048,  # without the output layer, which is the embedding elsewhere
        "llama-3.2-1b": 1_235_814_400,
        "qwen2.5-0.5b": 494_032_768,
        "qwen2.5-1.5b": 1_543_714_304,
        "qwen3-0.6b": 596_049_920,
        "qwen3-0.6b-base": 596_049_920,
        "qwen3-1.7b-base": 1_720_574_976,
        "gemma-3-270m": 268_098_176,
        "gemma-3-1b": 999_885_952,
    }
    for family in MORE.values():
        published |= family.parameters
    with torch.device("meta"):
        config = model_config(presets()[name].config, name)
        model = SequenceClassifier(config, 2, HeadSpec.resolve(config, None, None, None))
    of_backbone = architecture_of(config).of_backbone
    assert sum(p.numel() for n, p in model.backbone.named_parameters() if of_backbone(n)) == published[name]


def test_random_weights_follow_gpt2() -> None:
    """Normal 0.02; projections into the residual stream 0.02 / sqrt(2 n_layers); biases 0; norms 1."""
    config = model_config(presets()["gpt2"].config | {"n_layer": 2, "vocab_size": 500}, "test")
    model = SequenceClassifier(config, 2, HeadSpec.resolve(config, None, None, True))
    init_weights(model, torch.Generator().manual_seed(0))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0
        elif ".ln_" in name:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            expected = 0.02 / 2 if name.endswith("c_proj.weight") else 0.02
            # Four standard errors of a standard deviation.
            assert abs(float(parameter.detach().std()) / expected - 1) < 4 / (2 * parameter.numel()) ** 0.5, name
    again = SequenceClassifier(config, 2, HeadSpec.resolve(config, None, None, True))
    init_weights(again, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_real_minilm(minilm: Path) -> None:
    """A real BERT: hidden states of real sentences."""
    from transformers import AutoModel

    source = find_model(minilm, "pretrained")
    model = SequenceClassifier(source.config, 2, HeadSpec.resolve(source.config, None, None, None))
    load_weights(model, minilm, head=False)
    theirs = AutoModel.from_pretrained(minilm)
    packer = packer_of(source.tokenizer, 128, TEXTS)
    ids, mask = padded(packer, source.tokenizer.pad_token_id)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        found = model.hidden_states(packer.batch(range(len(packer))))
    assert relative_error(found, expected) < TOLERANCE


def test_casts_of_frozen_parameters_follow_them() -> None:
    """The cast that is kept is never an old one."""
    parameter = torch.nn.Parameter(torch.ones(3, 2), requires_grad=False)

    def cast(dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return in_dtype(parameter, dtype)

    assert cast() is cast() and cast().dtype == torch.bfloat16
    assert cast(torch.float16).dtype == torch.float16 and cast(torch.float32) is parameter
    with torch.no_grad():
        parameter.add_(1)
    assert cast()[0, 0] == 2
    parameter.data = torch.full((3, 2), 5.0)
    assert cast()[0, 0] == 5
    # Trained by the fused AdamW, whose writes torch does not count; in fp32 or in half precision.
    for dtype in (torch.float32, torch.bfloat16):
        before = cast()
        parameter.requires_grad_(True)
        assert cast(dtype).requires_grad
        parameter.grad = torch.ones(3, 2)
        torch.optim.AdamW([parameter], lr=1.0, fused=True).step()
        parameter.requires_grad_(False)
        assert cast() is not before and cast()[0, 0] == parameter[0, 0].bfloat16() != before[0, 0]
    with torch.inference_mode():
        assert in_dtype(torch.nn.Parameter(torch.ones(1), requires_grad=False), torch.float16) == 1
        inside = cast()
    assert not inside.is_inference()
    assert not any("cast" in name for name in vars(parameter))
