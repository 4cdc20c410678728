"""Models by folder, preset and hub id; the file layouts of the hub; weights that don't fit."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
)

import pyllmclf
from pyllmclf import Classifier, ModelError, PyllmclfError, ResourceError, UsageError
from pyllmclf.data.tokenizers import SAMPLE_TOKENIZER
from pyllmclf.models.architectures.registry import architecture_of, model_config, presets
from pyllmclf.models.hub import find_model, with_own_tokenizer
from pyllmclf.models.sequence_classifier import HeadSpec, SequenceClassifier

Tensors = dict[str, torch.Tensor]

TEXTS = ["The parcel is late.", "I was charged twice for one invoice, and nobody answers!", "Log in", "a"]
LABELS = ["delivery", "billing", "account", "account"]
DATA = (TEXTS, LABELS)
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 2, "progress": False}
LORA: dict[str, Any] = SHORT | {"trainable": "lora", "lora": {"rank": 2}, "learning_rate": 1e-2}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *".,!?", "the", "parcel"]


# --- models as they lie on the hub ------------------------------------------------------------------------------------


def gpt2_reference(vocab_size: int = 1536) -> GPT2LMHeadModel:
    torch.manual_seed(1)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=48,
            n_embd=16,
            n_layer=2,
            n_head=2,
            initializer_range=0.2,
            bos_token_id=vocab_size - 1,
            eos_token_id=vocab_size - 1,
        )
    ).eval()


def bert_reference() -> BertForPreTraining:
    torch.manual_seed(2)
    return BertForPreTraining(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=40,
            max_position_embeddings=48,
            initializer_range=0.2,
        )
    ).eval()


def fresh(tensors: Tensors) -> Tensors:
    """Copies that share no storage, as safetensors wants them."""
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def gpt2_hub_tensors(reference: GPT2LMHeadModel) -> Tensors:
    """Names as in openai-community/gpt2: no prefix, and the causal masks as tensors."""
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in reference.state_dict().items()}
    tensors["lm_head.weight"] = reference.transformer.wte.weight
    positions = reference.config.n_positions
    for layer in range(reference.config.n_layer):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(positions, positions).tril()[None, None]
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return fresh(tensors)


def bert_hub_tensors(reference: BertForPreTraining) -> Tensors:
    """Names as in google-bert/bert-base-uncased: gamma and beta, heads of the pretraining, position numbers."""
    tensors = {}
    for name, tensor in reference.state_dict().items():
        tensors[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = (
            tensor
        )
    tensors["bert.embeddings.position_ids"] = torch.arange(reference.config.max_position_embeddings)[None]
    tensors["cls.predictions.decoder.weight"] = reference.bert.embeddings.word_embeddings.weight
    assert "cls.predictions.transform.LayerNorm.gamma" in tensors
    assert "cls.seq_relationship.weight" in tensors
    return fresh(tensors)


def write_config(folder: Path, reference: torch.nn.Module) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(reference.config.to_dict()))


@pytest.fixture
def gpt2_folder(tmp_path: Path) -> Path:
    """A folder in the layout of the hub's GPT-2."""
    reference = gpt2_reference()
    write_config(tmp_path / "gpt2", reference)
    save_file(gpt2_hub_tensors(reference), tmp_path / "gpt2" / "model.safetensors")
    shutil.copy(SAMPLE_TOKENIZER, tmp_path / "gpt2" / "tokenizer.json")
    return tmp_path / "gpt2"


@pytest.fixture
def bert_folder(tmp_path: Path) -> Path:
    """A folder in the layout of the hub's BERT."""
    reference = bert_reference()
    write_config(tmp_path / "bert", reference)
    save_file(bert_hub_tensors(reference), tmp_path / "bert" / "model.safetensors")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return tmp_path / "bert"


Publish = Callable[..., str]


@pytest.fixture
def publish() -> Iterator[Publish]:
    """Puts a folder into the hub's cache, as a download would; returns the commit."""
    cache = Path(constants.HF_HUB_CACHE)
    before = set(cache.iterdir()) if cache.is_dir() else set()

    def put(hub_id: str, folder: Path, commit: str = "c0ffee" + "0" * 34) -> str:
        repository = cache / f"models--{hub_id.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir(exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        for path in folder.iterdir():
            blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copy(path, blob)
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
        return commit

    yield put
    for repository in set(cache.iterdir()) - before if cache.is_dir() else ():
        shutil.rmtree(repository)


def snapshot_of(hub_id: str, commit: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots" / commit


# --- comparison with transformers -------------------------------------------------------------------------------------


def relative_error(found: Any, expected: Any) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@torch.inference_mode()
def assert_computes_as(classifier: Classifier, backbone: GPT2Model | BertModel, texts: list[str] = TEXTS) -> None:
    """Hidden states and logits of each text agree with transformers' backbone under the same head."""
    packer, head = classifier.packer(texts), classifier.state.model.head
    logits = classifier.logits(texts)
    for i in range(len(texts)):
        batch = packer.batch([i])
        expected = backbone(batch.input_ids[None].long())
        hidden = classifier.state.model.hidden_states(batch)
        assert relative_error(hidden, expected.last_hidden_state[0]) <= 1e-5
        bert = isinstance(backbone, BertModel)
        pooled = expected.pooler_output[0] if bert else expected.last_hidden_state[0, -1]
        assert (head.bias is not None) == bert
        wanted = torch.nn.functional.linear(pooled, head.weight, head.bias)
        assert relative_error(logits[i], wanted) <= 1e-5


def head_only(model: str | Path) -> Classifier:
    """A classifier whose backbone is as it was read."""
    return pyllmclf.finetune(model, DATA, trainable="head", learning_rate=1e-2, **SHORT).classifier


def test_gpt2_in_the_layout_of_the_hub(gpt2_folder: Path) -> None:
    assert_computes_as(head_only(gpt2_folder), gpt2_reference().transformer)


def test_bert_in_the_layout_of_the_hub(bert_folder: Path) -> None:
    classifier = head_only(bert_folder)
    assert_computes_as(classifier, bert_reference().bert)
    tokenizer = BertTokenizerFast(vocab=str(bert_folder / "vocab.txt"))
    theirs = tokenizer(TEXTS, truncation=True, max_length=48)["input_ids"]
    packer = classifier.packer(TEXTS)
    assert [packer.batch([i]).input_ids.tolist() for i in range(len(TEXTS))] == theirs


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_folder_that_transformers_saved(gpt2_folder: Path, bert_folder: Path, kind: str) -> None:
    folder = gpt2_folder if kind == "gpt2" else bert_folder
    reference: Any = gpt2_reference() if kind == "gpt2" else bert_reference()
    backbone = reference.transformer if kind == "gpt2" else reference.bert
    for model in (reference, backbone):
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder)
        assert_computes_as(head_only(str(folder)), backbone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_another_precision_become_fp32(gpt2_folder: Path, dtype: torch.dtype) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in load_file(gpt2_folder / "model.safetensors").items()}
    save_file(narrow, gpt2_folder / "model.safetensors")
    classifier = head_only(gpt2_folder)
    assert {p.dtype for p in classifier.state.model.parameters()} == {torch.float32}
    assert torch.equal(classifier.state.model.backbone.wte.weight, narrow["wte.weight"].float())
    reference = gpt2_reference().transformer
    reference.load_state_dict({name: narrow[name].float() for name in reference.state_dict()})
    assert_computes_as(classifier, reference)


# --- weights that don't fit -------------------------------------------------------------------------------------------


def cast(name: str, dtype: torch.dtype) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name].to(dtype)})


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda t: t.pop("ln_f.weight"), r"'transformer\.ln_f\.weight'"),
        (lambda t: t.pop("h.1.attn.c_attn.bias"), r"'transformer\.h\.1\.attn\.c_attn\.bias'"),
        (lambda t: t.clear(), "missing"),
        (put("h.2.ln_1.weight", 16), "'h.2.ln_1.weight'"),
        (put("h.0.attn.rotary", 3), "'h.0.attn.rotary'"),
        (put("attn.bias", 3), "'attn.bias'"),
        (put("wte.weight", 1535, 16), r"wte\.weight has the shape \(1535, 16\)"),
        (put("ln_f.bias", 17), r"ln_f\.bias has the shape \(17,\)"),
        (put("ln_f.bias", 16, 1), r"ln_f\.bias has the shape"),
        (put("h.0.attn.c_attn.weight", 48, 16), r"h\.0\.attn\.c_attn\.weight has the shape"),
        (put("h.0.attn.c_attn.weight", 768), r"h\.0\.attn\.c_attn\.weight has the shape"),
        (cast("wpe.weight", torch.int64), r"wpe\.weight has the dtype torch\.int64"),
        (cast("ln_f.weight", torch.bool), r"ln_f\.weight has the dtype torch\.bool"),
        (cast("ln_f.weight", torch.float8_e8m0fnu), r"ln_f\.weight has the dtype torch\.float8_e8m0fnu"),
    ],
)
def test_gpt2_weights_that_do_not_fit(gpt2_folder: Path, edit: Callable[[Tensors], object], word: str) -> None:
    tensors = load_file(gpt2_folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, gpt2_folder / "model.safetensors")
    with pytest.raises(ModelError, match=word):
        head_only(gpt2_folder)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda t: t.pop("bert.pooler.dense.weight"), r"'bert\.pooler\.dense\.weight'"),
        (lambda t: t.pop("bert.encoder.layer.1.output.LayerNorm.beta"), r"layer\.1\.output\.LayerNorm\.bias"),
        (put("bert.encoder.layer.0.crossattention.self.query.weight", 16, 16), "crossattention"),
        (put("qa_outputs.weight", 2, 16), "qa_outputs"),
        (put("bert.embeddings.LayerNorm.gamma", 8), r"embeddings\.LayerNorm\.gamma has the shape \(8,\)"),
        (put("bert.encoder.layer.0.intermediate.dense.weight", 16, 40), r"intermediate\.dense\.weight has the shape"),
        (cast("bert.embeddings.LayerNorm.beta", torch.int32), r"LayerNorm\.beta has the dtype torch\.int32"),
    ],
)
def test_bert_weights_that_do_not_fit(bert_folder: Path, edit: Callable[[Tensors], object], word: str) -> None:
    tensors = load_file(bert_folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, bert_folder / "model.safetensors")
    with pytest.raises(ModelError, match=word):
        head_only(bert_folder)


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-1], lambda c: c[:100], lambda c: b"\xff" * 64])
def test_damaged_weights(gpt2_folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = gpt2_folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match=r"model\.safetensors: damaged"):
        head_only(gpt2_folder)


@pytest.mark.parametrize("kind", ["F4", "F6_E2M3", "F8_E8M0", "U64", "C64"])
def test_weights_of_a_dtype_that_torch_does_not_compute(gpt2_folder: Path, kind: str) -> None:
    path = gpt2_folder / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["ln_f.weight"]["dtype"] = kind
    written = json.dumps(header).encode()
    path.write_bytes(len(written).to_bytes(8, "little") + written + content[8 + size :])
    with pytest.raises(ModelError, match=r"ln_f\.weight|damaged"):
        head_only(gpt2_folder)


@pytest.mark.parametrize("file", ["", "config.json", "model.safetensors", "tokenizer.json"])
def test_link_that_leads_to_itself(gpt2_folder: Path, tmp_path: Path, file: str) -> None:
    path = gpt2_folder / file if file else tmp_path / "loop"
    if file:
        path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(PyllmclfError) as raised:
        head_only(gpt2_folder if file else path)
    assert raised.value.exit_code == 4
    with pytest.raises(ModelError):
        pyllmclf.load(gpt2_folder if file else path)


@pytest.mark.parametrize("file", ["", "pyllmclf.json", "model.safetensors", "tokenizer.json", "manifest.json"])
def test_checkpoint_with_a_link_that_leads_to_itself(gpt2_folder: Path, tmp_path: Path, file: str) -> None:
    head_only(gpt2_folder).save(tmp_path / "saved")
    path = tmp_path / "saved" / file if file else tmp_path / "loop"
    if file:
        path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(ModelError):
        pyllmclf.load(tmp_path / "saved" if file else path)
    if file in ("", "manifest.json"):
        with pytest.raises(PyllmclfError):
            head_only(gpt2_folder).save(tmp_path / "saved" if file else path)
    else:  # a checkpoint is replaced, however damaged
        head_only(gpt2_folder).save(tmp_path / "saved")
        pyllmclf.load(tmp_path / "saved")


# --- sharded weights --------------------------------------------------------------------------------------------------


def shard(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, chosen in parts.items():
        save_file({name: tensors[name] for name in chosen}, folder / file)
    weight_map = {name: file for file, chosen in parts.items() for name in chosen}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_sharded_weights(gpt2_folder: Path, bert_folder: Path) -> None:
    for folder, backbone in ((gpt2_folder, gpt2_reference().transformer), (bert_folder, bert_reference().bert)):
        shard(folder)
        assert_computes_as(head_only(folder), backbone)


def test_missing_shard(gpt2_folder: Path) -> None:
    shard(gpt2_folder)
    (gpt2_folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        head_only(gpt2_folder)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "{",
        "[]",
        "5",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"wte.weight": 5}}',
        '{"weight_map": {"wte.weight": ["a"]}}',
        '{"weight_map": {"wte.weight": "../gpt2/model-00001-of-00002.safetensors"}}',
        '{"weight_map": {"wte.weight": "/etc/passwd"}}',
    ],
)
@pytest.mark.parametrize("where", ["folder", "hub"])
def test_malformed_index(gpt2_folder: Path, publish: Publish, index: str, where: str) -> None:
    shard(gpt2_folder)
    (gpt2_folder / "model.safetensors.index.json").write_text(index)
    model = str(gpt2_folder)
    if where == "hub":
        publish(model := "someone/sharded", gpt2_folder)
    with pytest.raises(ModelError):
        head_only(model)


# --- configurations ---------------------------------------------------------------------------------------------------


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("model_type", ["mamba", "t5", "", None])
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_unsupported_architecture_names_what_is_supported(
    gpt2_folder: Path, model_type: str | None, weights: str
) -> None:
    edit_config(gpt2_folder, model_type=model_type)
    with pytest.raises(ModelError) as raised:
        find_model(gpt2_folder, weights)
    for word in (str(gpt2_folder / "config.json"), repr(model_type), "GPT-2", "BERT"):
        assert word in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "relu"},
        {"activation_function": ["gelu"]},
        {"add_cross_attention": True},
        {"n_embd": None},
        {"n_embd": "16"},
        {"n_embd": 17},
        {"n_head": 0},
        {"n_layer": 2.0},
        {"n_layer": True},
        {"n_inner": -64},
        {"vocab_size": "many"},
        {"layer_norm_epsilon": "1e-5"},
        {"layer_norm_epsilon": None},
        {"initializer_range": None},
    ],
    ids=str,
)
def test_gpt2_configuration_that_is_not_understood(gpt2_folder: Path, changes: dict[str, Any]) -> None:
    edit_config(gpt2_folder, **changes)
    with pytest.raises(ModelError, match=r"config\.json"):
        head_only(gpt2_folder)


@pytest.mark.parametrize(
    "changes",
    [{"position_embedding_type": "relative_key"}, {"is_decoder": True}, {"hidden_act": "relu"}],
    ids=str,
)
def test_bert_variant_that_is_not_supported(bert_folder: Path, changes: dict[str, Any]) -> None:
    edit_config(bert_folder, **changes)
    with pytest.raises(ModelError, match=r"config\.json"):
        head_only(bert_folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "\udcff", '{"a": ' * 100_000])
def test_configuration_that_is_no_json_object(gpt2_folder: Path, content: str) -> None:
    (gpt2_folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"config\.json"):
        head_only(gpt2_folder)


def test_configuration_of_a_larger_model(gpt2_folder: Path, bert_folder: Path) -> None:
    """What it asks for is never given memory: not for weights that aren't there, nor beyond what the machine has."""
    edit_config(gpt2_folder, n_positions=(1 << 31) - 1)
    with pytest.raises(ModelError, match=r"the configuration needs at least [\d,]+, the weights hold [\d,]+"):
        head_only(gpt2_folder)
    with pytest.raises(ResourceError, match=r"a model of [\d,]+ parameters takes [\d,]+ GB; this machine has"):
        pyllmclf.finetune(gpt2_folder, DATA, weights="random", **SHORT)
    for layers in (1 << 62, 10_001, True, "3"):
        edit_config(bert_folder, model_type="modernbert", num_hidden_layers=layers)
        with pytest.raises(ModelError, match=r"n_layers is .*not an integer from 1 to 10,000"):
            head_only(bert_folder)


@pytest.mark.parametrize("name", [name for name in presets() if name != "gpt2-nano"])
def test_least_parameters(name: str) -> None:
    """What is counted without building a model is less than what it has, and most of it."""
    config = model_config(presets()[name].config, name)
    with torch.device("meta"):
        model = SequenceClassifier(config, 2, HeadSpec.resolve(config, None, None, None))
    parameters = sum(p.numel() for p in model.parameters())
    assert 0.75 * parameters < architecture_of(config).least_parameters(config) < parameters


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_folder_that_lacks_a_file(gpt2_folder: Path, file: str) -> None:
    (gpt2_folder / file).unlink()
    with pytest.raises(ModelError, match=file):
        head_only(gpt2_folder)


def test_tokenizer_with_more_tokens_than_the_embedding(bert_folder: Path) -> None:
    (bert_folder / "vocab.txt").write_text("\n".join([*WORDS, "one", "more"]) + "\n")
    with pytest.raises(ModelError, match=f"tokenizer has {len(WORDS) + 2} tokens"):
        head_only(bert_folder)


# --- hub ids and presets ----------------------------------------------------------------------------------------------


def test_model_of_the_hub(gpt2_folder: Path, bert_folder: Path, publish: Publish) -> None:
    models = ((gpt2_folder, gpt2_reference().transformer), (bert_folder, bert_reference().bert))
    for i, (folder, backbone) in enumerate(models):
        commit = publish(f"someone/{folder.name}", folder, commit=f"{i}" * 40)
        classifier = head_only(f"someone/{folder.name}")
        assert_computes_as(classifier, backbone)
        assert (classifier.state.hub_id, classifier.state.revision) == (f"someone/{folder.name}", commit)


def test_folder_has_no_revision(gpt2_folder: Path) -> None:
    state = head_only(gpt2_folder).state
    assert (state.hub_id, state.revision) == (None, None)


def test_sharded_model_of_the_hub(gpt2_folder: Path, publish: Publish) -> None:
    shard(gpt2_folder)
    publish("someone/sharded", gpt2_folder)
    assert_computes_as(head_only("someone/sharded"), gpt2_reference().transformer)


def test_preset_gpt2(publish: Publish, tmp_path: Path, gpt2_vocabulary: Path) -> None:
    """The repository's config.json counts; its tokenizer is tiktoken's, so that none need be there."""
    assert gpt2_vocabulary.is_dir()
    reference = gpt2_reference(vocab_size=50257)
    write_config(tmp_path / "gpt2", reference)
    save_file(gpt2_hub_tensors(reference), tmp_path / "gpt2" / "model.safetensors")
    commit = publish("openai-community/gpt2", tmp_path / "gpt2")
    classifier = head_only("gpt2")
    assert classifier.state.tokenizer.kind == "tiktoken"
    assert (classifier.state.hub_id, classifier.state.revision) == ("openai-community/gpt2", commit)
    assert classifier.packer(["Hello world"]).batch([0]).input_ids.tolist() == [15496, 995]
    assert_computes_as(classifier, reference.transformer)


@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-cased", "bert-large-uncased", "bert-large-cased"])
def test_preset_bert(bert_folder: Path, publish: Publish, name: str) -> None:
    cased = name.endswith("-cased")
    (bert_folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": not cased}))
    commit = publish(f"google-bert/{name}", bert_folder)
    classifier = head_only(name)
    assert (classifier.state.hub_id, classifier.state.revision) == (f"google-bert/{name}", commit)
    assert_computes_as(classifier, bert_reference().bert)
    the = WORDS.index("[UNK]" if cased else "the")
    ids = [WORDS.index("[CLS]"), the, WORDS.index("parcel"), WORDS.index("[SEP]")]
    assert classifier.packer(["THE parcel"]).batch([0]).input_ids.tolist() == ids


def test_random_weights_need_no_weights_of_the_hub(bert_folder: Path, publish: Publish) -> None:
    (bert_folder / "model.safetensors").unlink()
    publish("someone/bare", bert_folder)
    state = pyllmclf.finetune("someone/bare", DATA, weights="random", trainable="all", **SHORT).classifier.state
    assert state.model.config.width == 16
    assert (state.hub_id, state.revision) == (None, None)


def test_nano_has_no_pretrained_weights() -> None:
    with pytest.raises(UsageError, match="random"):
        find_model("gpt2-nano", "pretrained")
    source = find_model("gpt2-nano", "random")
    assert (source.folder, source.hub_id, source.config.width) == (None, None, 64)


def test_unknown_kind_of_weights() -> None:
    with pytest.raises(UsageError, match="'frozen'"):
        find_model("gpt2-nano", "frozen")


# --- offline ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["someone/unknown", "bert-base-uncased"])
def test_model_that_is_not_cached(name: str) -> None:
    with pytest.raises(ModelError, match=r"unknown|bert-base-uncased") as raised:
        head_only(name)
    assert "config.json" in str(raised.value)
    assert "HF_HUB_OFFLINE" in str(raised.value)


def test_files_of_which_the_cache_says_nothing(bert_folder: Path, publish: Publish) -> None:
    commit = publish("someone/copied", bert_folder)
    with pytest.warns(RuntimeWarning) as warned:
        find_model("someone/copied", "pretrained")
    said = [str(one.message) for one in warned if "local cache" in str(one.message)]
    assert len(said) == 1 and "tokenizer_config.json, modules.json are not in the local cache" in said[0]
    with pytest.warns(RuntimeWarning, match=r"special_tokens_map\.json, added_tokens\.json are not in the local cache"):
        with_own_tokenizer(find_model("someone/copied", "pretrained"))
    absent = snapshot_of("someone/copied", commit).parents[1] / ".no_exist" / commit
    absent.mkdir(parents=True)
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "modules.json",
        "special_tokens_map.json",
        "added_tokens.json",
    ):
        (absent / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_own_tokenizer(find_model("someone/copied", "pretrained"))


@pytest.mark.parametrize("other", [None, "pytorch_model.bin"])
def test_weights_that_are_not_cached(gpt2_folder: Path, publish: Publish, other: str | None) -> None:
    (gpt2_folder / "model.safetensors").unlink()
    if other is not None:
        (gpt2_folder / other).write_bytes(b"pickled")
    publish("someone/partial", gpt2_folder)
    with pytest.raises(ModelError, match=r"someone/partial.*model\.safetensors"):
        head_only("someone/partial")


def test_shard_that_is_not_cached(gpt2_folder: Path, publish: Publish) -> None:
    shard(gpt2_folder)
    (gpt2_folder / "model-00002-of-00002.safetensors").unlink()
    publish("someone/sharded", gpt2_folder)
    with pytest.raises(ModelError, match=r"someone/sharded.*model-00002-of-00002\.safetensors"):
        head_only("someone/sharded")


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_tokenizer_that_is_not_cached(gpt2_folder: Path, bert_folder: Path, publish: Publish, file: str) -> None:
    folder = gpt2_folder if file == "tokenizer.json" else bert_folder
    (folder / file).unlink()
    publish("someone/mute", folder)
    with pytest.raises(ModelError, match=file):
        head_only("someone/mute")


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/where", "~/nowhere", "a/b/c", "no spaces!", "a--b", "."])
def test_name_that_is_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        find_model(name, "pretrained")


# --- LoRA on a model of the hub ---------------------------------------------------------------------------------------


@pytest.fixture(params=["gpt2", "bert"])
def adapter(request: pytest.FixtureRequest, publish: Publish, tmp_path: Path) -> tuple[Path, Classifier, str, str]:
    """A LoRA checkpoint of a model of the hub, its classifier, and the model's id and commit."""
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    hub_id = f"someone/{request.param}"
    commit = publish(hub_id, folder)
    classifier = pyllmclf.finetune(hub_id, DATA, **LORA).classifier
    classifier.save(tmp_path / "adapter")
    return tmp_path / "adapter", classifier, hub_id, commit


def test_adapter_names_its_base_and_carries_none(adapter: tuple[Path, Classifier, str, str]) -> None:
    folder, _, hub_id, commit = adapter
    assert not (folder / "base").exists()
    assert not (folder / "model.safetensors").exists()
    base = json.loads((folder / "pyllmclf.json").read_text())["base"]
    assert (base["hub_id"], base["revision"]) == (hub_id, commit)
    assert len(base["sha256"]) == 64
    peft = json.loads((folder / "adapter_config.json").read_text())
    assert (peft["base_model_name_or_path"], peft["revision"]) == (hub_id, commit)


def test_adapter_loads_on_the_cached_base(adapter: tuple[Path, Classifier, str, str], tmp_path: Path) -> None:
    folder, classifier, hub_id, commit = adapter
    loaded = pyllmclf.load(folder)
    expected = classifier.logits(TEXTS)
    np.testing.assert_array_equal(loaded.logits(TEXTS), expected)
    assert (loaded.state.hub_id, loaded.state.revision) == (hub_id, commit)
    loaded.save(tmp_path / "again")
    assert not (tmp_path / "again" / "base").exists()
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "again").logits(TEXTS), expected)


def test_adapter_stays_on_its_commit(
    adapter: tuple[Path, Classifier, str, str], publish: Publish, tmp_path: Path
) -> None:
    """A later commit of the repository changes nothing."""
    folder, classifier, hub_id, commit = adapter
    later = tmp_path / "later"
    shutil.copytree(snapshot_of(hub_id, commit), later)
    halved = {n: t / 2 if t.is_floating_point() else t for n, t in load_file(later / "model.safetensors").items()}
    save_file(halved, later / "model.safetensors")
    publish(hub_id, later, commit="f" * 40)
    assert find_model(hub_id, "pretrained").revision == "f" * 40
    np.testing.assert_array_equal(pyllmclf.load(folder).logits(TEXTS), classifier.logits(TEXTS))


def test_adapter_refuses_a_changed_base(adapter: tuple[Path, Classifier, str, str]) -> None:
    folder, _, hub_id, commit = adapter
    path = snapshot_of(hub_id, commit) / "model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith(("0.mlp.c_fc.bias", "0.intermediate.dense.bias")))
    tensors[name][3] += 1e-4
    save_file(tensors, path)
    with pytest.raises(ModelError, match="base model is not the one"):
        pyllmclf.load(folder)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_adapter_without_its_base(adapter: tuple[Path, Classifier, str, str], file: str) -> None:
    folder, _, hub_id, commit = adapter
    (snapshot_of(hub_id, commit) / file).unlink()
    with pytest.raises(ModelError, match=rf"{hub_id}.*{file}"):
        pyllmclf.load(folder)


def test_adapter_that_transformers_would_compute_otherwise_carries_its_base(
    publish: Publish, gpt2_folder: Path, tmp_path: Path
) -> None:
    """The hub's model is causal: naming it as the base of a bidirectional adapter would give other logits."""
    publish("someone/gpt2", gpt2_folder)
    classifier = pyllmclf.finetune("someone/gpt2", DATA, **LORA | {"causal": False}).classifier
    classifier.save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter/base/config.json").read_text())["model_type"] == "pyllmclf"
    peft = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert (peft["base_model_name_or_path"], peft["revision"]) == (str(tmp_path / "adapter/base"), None)
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "adapter").logits(TEXTS), classifier.logits(TEXTS))
