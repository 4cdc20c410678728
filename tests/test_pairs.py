"""Pairs of texts: templates, types and truncation as in transformers, and the same scores in its tools."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from cases import CPU_BACKENDS, relative_error
from hypothesis import given
from hypothesis import strategies as st
from interoperability import close
from models import DECODERS, FAMILIES, LABELS, Folders, each_kind, our_model, padded
from pairs import news, pairs_of, scores_of_others
from test_models import TOLERANCE, measure_of_shift, their_gradient
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import pyllmclf
from pyllmclf import ModelError, UsageError, ops
from pyllmclf.classifier.classifier import Classifier
from pyllmclf.classifier.inference import inference_batch, inference_batches
from pyllmclf.data.lengths import LengthReport, truncation
from pyllmclf.data.packing import Packer, RowLayout
from pyllmclf.data.pair_tokens import shares
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import PairTokenizer, PromptedTokenizer, Tokenizer, with_prompt
from pyllmclf.errors import DataError
from pyllmclf.models.hub import pair_tokenizer
from pyllmclf.text_pair import TextPair

FIRST = ["a", "hello world", "the quick brown fox", "x y z", "fun, isn't it?", "hello world"]
SECOND = ["b c", "jumps over the lazy dog", "a", "b" * 20, "", "x"]
PAIRS = list(map(TextPair, FIRST, SECOND))
CLASSES = ["even", "odd", "odd", "even", "odd", "even"]
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 3, "progress": False, "validation": False, "learning_rate": 1e-2}
SHORT = 14
# Families of causal models, whose tokenizers have no template: their token for the end of a text separates the texts.
CAUSAL = {"gpt2", *DECODERS}
# Families whose plain models read types of tokens.
TYPED = {"bert", "electra", "albert"}


def trained(folder: Path | str, **options: Any) -> Classifier:
    """A small classifier that was trained on the pairs."""
    data = options.pop("train", (FIRST, SECOND, CLASSES))
    return pyllmclf.finetune(folder, data, **({"trainable": "all"} | QUICK | options)).classifier


def rows_of(packer: Packer) -> list[list[int]]:
    return [packer.batch([i]).input_ids.tolist() for i in range(len(packer))]


def of_pairs(folder: Path) -> tuple[Any, Tokenizer]:
    """The model of a folder, and its tokenizer of pairs."""
    model, tokenizer = our_model(folder)
    return model, pair_tokenizer(tokenizer, model.config)


# --- tokens and types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", each_kind(FAMILIES))
@pytest.mark.parametrize("max_length", [SHORT, 40])
def test_tokens_are_those_of_the_saved_tokenizer(
    model_folder: Folders, tmp_path: Path, family: str, max_length: int
) -> None:
    """Special tokens, types and truncation of transformers' tokenizer in the checkpoint."""
    classifier = trained(model_folder(family), max_length=max_length)
    classifier.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    expected = theirs(FIRST, SECOND, truncation=True)
    packer = classifier.packer(list(PAIRS))
    assert (max_length == SHORT) == bool(packer.cut)
    found = rows_of(packer)
    for row, ids, second in zip(found, expected["input_ids"], SECOND, strict=True):
        # A decoder's separator at the end is the padding token, which transformers' class doesn't read.
        assert row == (ids if second or family not in CAUSAL else ids[:-1])
    types = [packer.batch([i]).token_types for i in range(len(packer))]
    assert classifier.state.reads_types == (family in TYPED)
    if family in TYPED:
        assert [each.tolist() for each in types if each is not None] == expected["token_type_ids"]
        assert max(map(max, expected["token_type_ids"])) == 1
    else:
        assert types == [None] * len(packer) and "token_type_ids" not in expected


@pytest.mark.parametrize(
    ("family", "between"),
    [
        *((family, [256]) for family in sorted(CAUSAL)),
        ("bert", [3]),
        ("roberta", [2, 2]),
        ("distilbert", [3]),
        ("modernbert", [3]),
    ],
)
def test_tokens_between_the_texts_are_recorded(
    model_folder: Folders, tmp_path: Path, family: str, between: list[int]
) -> None:
    classifier = trained(model_folder(family))
    classifier.save(tmp_path / "saved")
    spec = json.loads((tmp_path / "saved" / "pyllmclf.json").read_text())
    assert (spec["tokenizer"]["between"], spec["format_version"]) == (between, 4)
    again = pyllmclf.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.logits(PAIRS), classifier.logits(PAIRS))
    spec["tokenizer"]["between"] = [7]
    content = json.dumps(spec).encode()
    (tmp_path / "saved" / "pyllmclf.json").write_bytes(content)
    manifest = json.loads((tmp_path / "saved" / "manifest.json").read_text())
    manifest["files"]["pyllmclf.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (tmp_path / "saved" / "manifest.json").write_text(json.dumps(manifest))
    said = rf"tokenizer\.between is \[7\], and the template of .* has {re.escape(str(between))} between the texts"
    with pytest.raises(ModelError, match=said):
        pyllmclf.load(tmp_path / "saved")


def test_single_texts_are_saved_as_before(model_folder: Folders, tmp_path: Path) -> None:
    classifier = pyllmclf.finetune(model_folder("bert"), (FIRST, CLASSES), trainable="all", **QUICK).classifier
    classifier.save(tmp_path / "saved")
    spec = json.loads((tmp_path / "saved" / "pyllmclf.json").read_text())
    assert (spec["tokenizer"]["between"], spec["format_version"]) == (None, 1)


def test_a_tokenizer_with_a_template_of_its_own_keeps_it() -> None:
    """Llama's puts its first token before both texts, and types don't matter to a model without them."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<s>": 0, "a": 1, "b": 2, "<unk>": 3}, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 0)]
    )
    from pyllmclf.data.tokenizers import LibraryTokenizer

    own = LibraryTokenizer(tokenizer, {"pad_token": "<unk>"}, "here")
    ours = PairTokenizer(own, typed=False)
    assert (ours.prefix, ours.pairs.between, ours.suffix, ours.separator) == ([0], (0,), [], None)
    assert ours.to_json() == own.to_json()
    typed = PairTokenizer(own, typed=True)
    assert (typed.pairs.typed, typed.pairs.zeros) == (True, 0)


@pytest.mark.parametrize("place", ["[CLS]", "[MID]", "[END]"])
def test_a_template_with_tokens_that_are_none_is_refused(place: str) -> None:
    from pyllmclf.data.tokenizers import LibraryTokenizer

    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 0, "a": 1, "[X]": 2}, "[PAD]"))
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A",
        pair="[CLS] $A [MID] $B:1 [END]:1",
        special_tokens=[(name, 3 if name == place else 2) for name in ("[CLS]", "[MID]", "[END]")],
    )
    with pytest.raises(ModelError, match="template of pairs has the token 3, which its vocabulary lacks"):
        PairTokenizer(LibraryTokenizer(own, {"pad_token": "[PAD]"}, "here"), typed=True)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 33))
def test_shares_are_those_of_the_library(first: int, second: int, room: int) -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "<unk>": 2}, "<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(room, strategy="longest_first")
    ids = tokenizer.encode(" ".join("a" * first), " ".join("b" * second)).ids
    found = shares(np.array([first]), np.array([second]), room, "longest_first")
    assert [int(each[0]) for each in found] == [ids.count(0), ids.count(1)]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5), st.integers(1, 12))
def test_only_the_second_text_loses_tokens(lengths: list[tuple[int, int]], room: int) -> None:
    first, second = np.array(lengths).T
    kept = shares(first, second, room, "only_second")
    assert (kept[0] + kept[1] == np.minimum(first + second, room)).all()
    for (a, b), of_first, of_second in zip(lengths, *kept, strict=True):
        assert of_first == min(a, room - min(b, 1)) and of_second <= b


class Letters:
    """A tokenizer of pairs whose tokens are code points, with 1 before, 2 and 3 between, and 4 after them."""

    def __init__(self, typed: bool = True) -> None:
        own = tokenizers.Tokenizer(
            tokenizers.models.WordLevel({"[CLS]": 1, "[SEP]": 2, "[MID]": 3, "[END]": 4, "[PAD]": 0}, "[PAD]")
        )
        own.add_tokens([*"abcdefghijklmnopqrstuvwxyz", "[SEP]", "[MID]"])
        own.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [END]",
            pair="[CLS] $A [SEP] [MID]:1 $B:1 [END]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2), ("[MID]", 3), ("[END]", 4)],
        )
        from pyllmclf.data.tokenizers import LibraryTokenizer

        self.names = own
        self.pairs = PairTokenizer(LibraryTokenizer(own, {"pad_token": "[PAD]"}, "here"), typed=typed)

    def rows(self, pair: TextPair, layout: RowLayout) -> list[str]:
        """The tokens of each window of a pair."""
        packer = Packer(TokenStore.from_texts([pair], self.pairs), self.pairs, layout)
        return ["".join(self.names.id_to_token(i).strip("[]") for i in row) for row in rows_of(packer)]


def test_what_is_read_of_long_pairs() -> None:
    letters, pair = Letters(), TextPair("abcdef", "uvwxyz")
    of = {
        long_texts: letters.rows(pair, RowLayout(12, 0, long_texts))
        for long_texts in ("head", "tail", "both", "windows")
    }
    assert of == {
        "head": ["CLSabcdSEPMIDuvwxEND"],
        "tail": ["CLScdefSEPMIDwxyzEND"],
        "both": ["CLSabefSEPMIDuvyzEND"],
        "windows": ["CLSabcdSEPMIDuvwxEND", "CLSabcdSEPMIDwxyzEND"],
    }
    second = {
        long_texts: letters.rows(pair, RowLayout(12, 0, long_texts, "only_second"))
        for long_texts in ("head", "tail", "both", "windows")
    }
    assert second == {
        "head": ["CLSabcdefSEPMIDuvEND"],
        "tail": ["CLSabcdefSEPMIDyzEND"],
        "both": ["CLSabcdefSEPMIDuzEND"],
        "windows": of["windows"],  # with few tokens of the second text in each there would be many
    }
    assert letters.rows(pair, RowLayout(9, 0, "head", "only_second")) == ["CLSabcdSEPMIDuEND"]
    assert letters.rows(TextPair("abcdef", ""), RowLayout(9, 0, "windows")) == ["CLSabcdeSEPMIDEND"]


@given(
    st.lists(st.tuples(st.text("abc", max_size=9), st.text("xyz", max_size=9)), min_size=1, max_size=6),
    st.integers(6, 14),
    st.sampled_from(["head", "tail", "both", "windows"]),
    st.sampled_from(["longest_first", "only_second"]),
)
def test_a_packed_store_is_packed_again_unchanged(
    pairs: list[tuple[str, str]], max_length: int, long_texts: str, truncation: str
) -> None:
    """As the server does it with the texts that wait; types begin with the second [SEP] in each row."""
    letters = Letters()
    layout = RowLayout(max_length, 0, long_texts, truncation)
    packer = Packer(TokenStore.from_texts([TextPair(*pair) for pair in pairs], letters.pairs), letters.pairs, layout)
    again = Packer(packer.store, letters.pairs, layout)
    assert rows_of(again) == rows_of(packer) and again.cut == 0
    for row in range(len(packer)):
        batch = packer.batch([row])
        ids, types = batch.input_ids.tolist(), batch.token_types
        assert types is not None and len(ids) <= max_length
        assert types.tolist() == [0] * ids.index(3) + [1] * (len(ids) - ids.index(3))


def test_a_pair_is_cut_alike_alone_and_beside_longer_ones(model_folder: Folders) -> None:
    """A separator that the pair loses at its end counts while the pair is cut, as in transformers."""
    classifier = trained(model_folder("gpt2"), max_length=SHORT)
    alone, beside = TextPair("fun, isn't it?", ""), TextPair("hello world", "the quick brown fox")
    expected = classifier.state.tokenizer.encode_batch([alone.text[: SHORT - 1]])
    packer = classifier.packer([alone])
    assert len(expected[0]) == SHORT - 1 and (rows_of(packer), packer.cut) == (expected, 1)
    packer = classifier.packer([alone, beside])
    assert (rows_of(packer)[0], packer.cut) == (expected[0], 2)


def test_first_texts_that_no_window_has_whole_are_counted() -> None:
    letters = Letters()
    second = "abcdefghijklmnopqrstuvwxyz"
    pairs = [TextPair("abcdefgh", second), TextPair("ab", second), TextPair("abcdefgh", ""), TextPair("a", "b")]
    packer = Packer(TokenStore.from_texts(pairs, letters.pairs), letters.pairs, RowLayout(11, 0, "windows"))
    assert packer.cut == 2 and LengthReport.of(packer, letters.pairs).truncated == 2


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ((10,), "more than 10 tokens, of which 10 are read; the longer text loses tokens at its end"),
        ((10, 0, "tail"), "more than 10 tokens, of which 10 are read; the longer text loses tokens at its beginning"),
        (
            (10, 0, "both", "only_second"),
            "more than 10 tokens, of which 10 are read; the second text loses tokens in its middle",
        ),
        ((10, 0, "windows"), "a first text that is too long to be in each window whole, and loses tokens"),
    ],
)
def test_what_pairs_lose_is_said(layout: tuple[Any, ...], said: str) -> None:
    letters = Letters()
    store = TokenStore.from_texts([TextPair("abcdef", "uvwxyz"), TextPair("a", "b")], letters.pairs)
    assert truncation(Packer(store, letters.pairs, RowLayout(*layout))) == f"1 of 2 pairs have {said}"


def test_training_with_windows_does_not_advise_them(model_folder: Folders) -> None:
    with pytest.warns(RuntimeWarning, match=r"^train: 1 of 2 pairs have a first text .* loses tokens\.$"):
        trained(
            model_folder("gpt2"), max_length=SHORT, long_texts="windows", train=(["a" * 20, "b"], ["c" * 20] * 2, "xy")
        )


def test_windows_cover_the_second_text() -> None:
    letters = Letters()
    second = "abcdefghijklmnopqrstuvwxyz"
    rows = letters.rows(TextPair("kk", second), RowLayout(11, 0, "windows"))
    parts = [row.removeprefix("CLSkkSEPMID").removesuffix("END") for row in rows]
    assert all(len(part) == 5 for part in parts) and set("".join(parts)) == set(second)
    assert all(second.index(b) - second.index(a) in (1, 3) for a, b in pairwise(parts))


@pytest.mark.parametrize("truncation", ["longest_first", "only_second"])
def test_windows_are_wide_however_long_the_first_text_is(truncation: str) -> None:
    letters, letter = Letters(), "abcdefghijklmnopqrstuvwxyz"
    layout = RowLayout(44, 0, "windows", truncation)
    rows = letters.rows(TextPair(letter * 9, letter * 4), layout)
    assert {row.count("SEPMID") for row in rows} == {1} and len(rows) == 10
    assert all(row.startswith(f"CLS{letter[:20]}SEPMID") and len(row) == 44 + 3 * 4 - 4 for row in rows)
    assert letters.rows(TextPair(letter * 9, "z"), layout) == [f"CLS{(letter * 9)[:39]}SEPMIDzEND"]


def test_padding_has_type_0() -> None:
    letters = Letters()
    packer = Packer(TokenStore.from_texts([TextPair("a", "b")], letters.pairs), letters.pairs, RowLayout(9, 9))
    batch = packer.batch([0])
    assert batch.input_ids.tolist()[-3:] == [0, 0, 0]
    assert batch.token_types is not None and batch.token_types.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0]


def test_pairs_with_equal_tokens_are_equal_if_their_types_are() -> None:
    letters = Letters()
    store = TokenStore.from_texts(
        [TextPair("a[SEP][MID]b", "c"), TextPair("a", "b[SEP][MID]c"), TextPair("a", "b")] * 2, letters.pairs
    )
    assert store.first_equal_texts(99).tolist() == [0, 1, 2, 0, 1, 2]


def test_kept_tokens_of_pairs(tmp_path: Path) -> None:
    letters = Letters()
    expected = TokenStore.from_texts(PAIRS, letters.pairs)
    for _ in range(2):
        found = TokenStore.cached(tmp_path, PAIRS, letters.pairs)
        assert found.sha256 == expected.sha256 and found.firsts is not None
    moved = [TextPair(pair.text + pair.pair[:1], pair.pair[1:]) for pair in PAIRS]
    TokenStore.cached(tmp_path, moved, letters.pairs)
    assert len(list(tmp_path.glob("tokens-*"))) == 2


@pytest.mark.parametrize(
    ("family", "prompt", "in_file"),
    [
        ("bert", "query: ", True),
        ("gpt2", "query:", True),
        ("roberta", "query:", True),
        ("gpt2", "query: ", False),  # a file can put the space before both texts alone
        ("roberta", "query: ", False),
    ],
)
def test_a_prompt_is_before_the_first_text(
    model_folder: Folders, tmp_path: Path, family: str, prompt: str, in_file: bool
) -> None:
    _, tokenizer = of_pairs(model_folder(family))
    ours = with_prompt(tokenizer, prompt)
    assert isinstance(ours, PromptedTokenizer)
    packer = Packer(TokenStore.from_texts(PAIRS, ours), ours, RowLayout(40))
    plain = [TextPair(prompt + pair.text, pair.pair) for pair in PAIRS]
    expected = Packer(TokenStore.from_texts(plain, tokenizer), tokenizer, RowLayout(40))
    assert rows_of(packer) == rows_of(expected)
    assert (ours.obstacle is None) == in_file
    if in_file:
        for name, content in ours.files(40).items():
            (tmp_path / name).write_text(content)
        found = AutoTokenizer.from_pretrained(tmp_path)(FIRST, SECOND, truncation=True)["input_ids"]
        assert rows_of(packer) == [ids[:-1] if ids[-1] == 256 and family == "gpt2" else ids for ids in found]


# --- the same numbers as transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name"),
    [(f, "plain") for f in FAMILIES] + [("bert", "one_head"), ("gpt2", "odd"), ("deberta_v2", "odd")],
)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_parity(model_folder: Folders, family: str, name: str, backend: str) -> None:
    """Logits, loss and every gradient, that of the embedding of types among them."""
    folder = model_folder(family, name)
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).train()
    ours, tokenizer = of_pairs(folder)
    packer = Packer(TokenStore.from_texts(PAIRS, tokenizer), tokenizer, RowLayout(ours.config.n_positions))
    ids, mask = padded(packer, tokenizer.pad_token_id)
    batch, labels = packer.batch(range(len(packer))), torch.tensor(LABELS)
    types: dict[str, Any] = {}
    if batch.token_types is not None:
        rows = batch.token_types.long().split(batch.lengths.tolist())
        types = {"token_type_ids": torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)}
    assert bool(types) == (family in TYPED or (family, name) == ("deberta_v2", "odd"))
    expected = theirs(input_ids=ids, attention_mask=mask, **types).logits
    expected_loss = F.cross_entropy(expected, labels)
    expected_loss.backward()
    with ops.use_backend(backend):
        logits = ours(batch)
        F.cross_entropy(logits, labels).backward()
    assert relative_error(logits.detach(), expected.detach()) < TOLERANCE
    gradients = {n: their_gradient(theirs, ours, n) for n, _ in ours.named_parameters()}
    for parameter_name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        if measure := measure_of_shift(parameter_name):  # see test_models.py
            other = gradients[parameter_name]
            scale = torch.maximum(gradients[measure].abs().max(), other.abs().max())
            assert float((parameter.grad - other).abs().max() / scale) < TOLERANCE, parameter_name
            continue
        found = parameter.grad.clone()
        if family in DECODERS and parameter_name == "backbone.embed_tokens.weight":
            # transformers gives padding tokens no gradient here, and the separator is one; ours learns it.
            assert found[tokenizer.pad_token_id].any() and not gradients[parameter_name][tokenizer.pad_token_id].any()
            found[tokenizer.pad_token_id] = 0.0
        assert relative_error(found, gradients[parameter_name]) < TOLERANCE, parameter_name
    if types:
        gradient = ours.backbone.embeddings.token_type_embeddings.weight.grad
        assert gradient is not None and (gradient.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("family", each_kind(FAMILIES))
@pytest.mark.parametrize("max_length", [SHORT, 40])
def test_other_tools_give_the_same_scores(model_folder: Folders, tmp_path: Path, family: str, max_length: int) -> None:
    """transformers' classifier and pipeline open what is saved."""
    classifier = trained(model_folder(family), max_length=max_length)
    classifier.save(tmp_path / "saved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.inference_mode():
        inputs = tokenizer(FIRST, SECOND, truncation=True, padding=True, return_tensors="pt")
        assert close(classifier.logits(PAIRS), theirs(**inputs).logits.numpy())
    classify = pipeline("text-classification", model=str(tmp_path / "saved"), top_k=None, device="cpu")
    pairs = [pair for pair in PAIRS if pair.pair]  # the pipeline takes an empty second text for none
    inputs = [{"text": pair.text, "text_pair": pair.pair} for pair in pairs]
    for found, expected in zip(classify(inputs, truncation=True), classifier.predict_proba(pairs), strict=True):
        scores = {each["label"]: each["score"] for each in found}
        assert close(np.array([scores[name] for name in classifier.classes_]), expected)


@pytest.mark.parametrize("family", each_kind(FAMILIES))
def test_cross_encoder_gives_the_same_scores(model_folder: Folders, tmp_path: Path, family: str) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")  # of the extra [test]
    classifier = trained(model_folder(family), max_length=SHORT)
    classifier.save(tmp_path / "saved")
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "saved"), device="cpu")
    found = theirs.predict([tuple(pair) for pair in PAIRS], show_progress_bar=False)
    assert close(classifier.logits(PAIRS), found)
    found = theirs.predict([tuple(pair) for pair in PAIRS], apply_softmax=True, show_progress_bar=False)
    assert close(classifier.predict_proba(PAIRS), found)


@pytest.mark.parametrize("options", [{"pair_truncation": "only_second"}, {"long_texts": "windows"}])
def test_what_transformers_cannot_express_is_refused_by_it(
    model_folder: Folders, tmp_path: Path, options: dict[str, Any]
) -> None:
    classifier = trained(model_folder("bert"), max_length=SHORT, **options)
    classifier.save(tmp_path / "saved")
    again = pyllmclf.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.logits(PAIRS), classifier.logits(PAIRS))
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["model_type"] == "pyllmclf"
    with pytest.raises(UsageError, match="can't be exported"):
        classifier.export(tmp_path / "exported")


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_onnx_and_torch_graphs(model_folder: Folders, tmp_path: Path, family: str) -> None:
    import onnxruntime

    classifier = trained(model_folder(family))
    classifier.export(tmp_path / "onnx", "onnx")
    classifier.export(tmp_path / "torch", "torch")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "onnx")(FIRST[:4], SECOND[:4], padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert ("token_type_ids" in [each.name for each in session.get_inputs()]) == (family == "bert")
    found = session.run(["logits"], {name: value.astype(np.int64) for name, value in inputs.items()})[0]
    expected = classifier.logits(PAIRS[:4])
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    program = torch.export.load(tmp_path / "torch" / "model.pt2").module()
    names = ("input_ids", "attention_mask", "token_type_ids") if family == "bert" else ("input_ids", "attention_mask")
    found = program(*(torch.from_numpy(inputs[name]).long() for name in names)).numpy()
    assert close(found, expected)


# --- packed and shared ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "modernbert"])
def test_frozen_layers_of_pairs_are_cached(model_folder: Folders, family: str) -> None:
    """Equal pairs once; the same classifier without a cache."""
    data = ([*FIRST, *FIRST], [*SECOND, *SECOND], [*CLASSES, *CLASSES])
    options: dict[str, Any] = {"trainable": "last_block", "epochs": 3, "train": data}
    kept = trained(model_folder(family), cache="memory", **options)
    without = trained(model_folder(family), cache="off", **options)
    np.testing.assert_allclose(kept.logits(PAIRS), without.logits(PAIRS), rtol=1e-5, atol=1e-6)


def test_a_text_that_meets_many_partners_is_computed_once(model_folder: Folders) -> None:
    """In a causal model; pairs with one first text are in one batch, whatever their order."""
    classifier = trained(model_folder("gpt2"))
    firsts = ["the quick brown fox " + letter for letter in "abcd"]
    pairs = [TextPair(first, second) for second in ("x", "y z", "w", "hello") for first in firsts]
    model, packer = classifier.state.model, classifier.packer(list(pairs))
    batches = inference_batches(model, packer, np.arange(len(pairs)), 200)
    order = [pairs[i].text for batch in batches for i in batch]
    assert len(batches) > 1 and sum(a != b for a, b in pairwise(order)) == len(firsts) - 1
    for ids in batches:
        batch = inference_batch(model, packer, ids, torch.device("cpu"))
        assert batch.shared is not None
        distinct = {pairs[i].text for i in ids}
        assert len(batch.shared.rows) <= sum(len(pairs[i].pair) + 1 for i in ids) + sum(map(len, distinct))
    alone = np.stack([classifier.logits(pair) for pair in pairs])
    assert close(classifier.logits(pairs), alone)


def test_prefixes_of_other_types_are_not_shared(model_folder: Folders) -> None:
    """A BERT with a causal mask: the same tokens, of the first text in one pair, of both in the other."""
    classifier = trained(model_folder("bert"), causal=True, pooling="last")
    pairs = [TextPair("a b c", "x y"), TextPair("a b c", "x z"), TextPair("a b", "c"), TextPair("a b", "c x")]
    alone = np.stack([classifier.logits(pair) for pair in pairs])
    assert close(classifier.logits(pairs), alone)


def test_training_is_that_of_a_padded_loop(model_folder: Folders) -> None:
    """The loss of each of the first steps."""
    folder = model_folder("bert")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).train()
    ours, tokenizer = of_pairs(folder)
    packer = Packer(TokenStore.from_texts(PAIRS, tokenizer), tokenizer, RowLayout(48))
    ids, mask = padded(packer, tokenizer.pad_token_id)
    batch, labels = packer.batch(range(len(packer))), torch.tensor(LABELS)
    assert batch.token_types is not None
    rows = batch.token_types.long().split(batch.lengths.tolist())
    types = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    losses = []
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (ours, theirs)]
    for _ in range(20):
        found = F.cross_entropy(ours(batch), labels)
        logits = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        expected = F.cross_entropy(logits, labels)
        for optimizer, loss in zip(optimizers, (found, expected), strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append((float(found.detach()), float(expected.detach())))
    assert losses[0][1] > losses[-1][1]
    for one, other in losses:
        assert abs(one - other) <= 1e-5 * abs(other)


def test_lora(model_folder: Folders, tmp_path: Path) -> None:
    classifier = trained(model_folder("bert"), trainable="lora", lora={"rank": 2})
    classifier.save(tmp_path / "saved")
    assert close(pyllmclf.load(tmp_path / "saved").logits(PAIRS), classifier.logits(PAIRS))


def test_int8(tmp_path: Path) -> None:
    trained("gpt2-nano", weights="random", epochs=10).save(tmp_path / "saved")
    rounded = pyllmclf.load(tmp_path / "saved", dtype="int8", calibration=PAIRS)
    assert rounded.state.int8 is not None and rounded.state.int8.texts == len(PAIRS)
    assert rounded.predict(PAIRS) == pyllmclf.load(tmp_path / "saved").predict(PAIRS)


# --- what is read, and what is refused --------------------------------------------------------------------------------


def test_forms_of_pairs(model_folder: Folders) -> None:
    import pandas as pd

    classifier = trained(model_folder("bert"))
    expected = classifier.logits(PAIRS)
    frame = pd.DataFrame({"premise": FIRST, "hypothesis": SECOND}, index=list("uvwxyz"))
    plain = [tuple(pair) for pair in PAIRS]
    lists = [list(pair) for pair in PAIRS]
    for form in (plain, lists, np.array(plain, dtype=object), iter(plain), tuple(plain), tuple(lists)):
        np.testing.assert_array_equal(classifier.logits(form), expected)
    # As many as (texts, labels) and (texts, pairs, labels) have, which are columns where data with labels are read.
    for count in (1, 2, 3):
        for rows in (plain, lists, PAIRS):
            found = classifier.logits(tuple(rows[:count]))
            np.testing.assert_allclose(found, expected[:count], rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="the second text is None"):
        classifier.predict((("a", "b"), ("c", None)))
    np.testing.assert_array_equal(classifier.logits(frame).to_numpy(), expected)
    assert list(classifier.logits(frame).index) == list("uvwxyz")
    np.testing.assert_allclose(classifier.logits(plain[0]), expected[0], rtol=1e-5)
    assert classifier.predict(plain[0]) == classifier.predict(plain)[0]
    assert len(classifier.logits([])) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["a", "b"], "reads pairs of texts, and this is a single text; give"),
        ("a", "reads pairs of texts, and this is a single text; give"),
        ([("a", "b"), "c"], "row 1: the classifier reads pairs of texts, and this is a single text"),
        ([("a", None)], "the second text is None"),
        ([("a", 3)], "the second text is 3, not a string"),
    ],
)
def test_a_classifier_of_pairs_refuses_others(model_folder: Folders, given: Any, said: str) -> None:
    classifier = trained(model_folder("bert"))
    with pytest.raises(DataError, match=said):
        classifier.predict(given)


def test_each_classifier_refuses_what_the_other_reads(model_folder: Folders) -> None:
    pairs = trained(model_folder("bert"))
    single = pyllmclf.finetune(model_folder("bert"), (FIRST, CLASSES), trainable="all", **QUICK).classifier
    for two in ([("a", "b")], TextPair("a", "b"), np.array([["a", "b"], ["c", "d"]], dtype=object)):
        with pytest.raises(DataError, match="reads single texts, and this is a pair of texts; leave"):
            single.predict(two)
    with pytest.raises(DataError, match="reads single texts, and this is a pair"):
        single.evaluate((FIRST, SECOND, CLASSES))
    with pytest.raises(DataError, match="reads pairs of texts, and this is a single text"):
        pairs.evaluate((FIRST, CLASSES))
    with pytest.raises(UsageError, match="sample has single texts, and the classifier reads pairs"):
        pairs.evaluate("sample")
    with pytest.raises(DataError, match="some texts are pairs"):
        trained(model_folder("bert"), train=([("a", "b"), "c"], ["x", "y"]))
    assert pairs.evaluate((FIRST, SECOND, CLASSES)).accuracy == pairs.evaluate((PAIRS, CLASSES)).accuracy
    assert single.predict(("a", "b")) == single.predict(["a", "b"])  # two texts, as ever


def test_only_second_is_about_pairs(model_folder: Folders) -> None:
    with pytest.raises(UsageError, match="pair_truncation is about pairs of texts"):
        pyllmclf.finetune(model_folder("bert"), (FIRST, CLASSES), pair_truncation="only_second", **QUICK)


@pytest.mark.parametrize("truncation", ["longest_first", "only_second"])
def test_truncation_changes_what_is_read(model_folder: Folders, truncation: str) -> None:
    classifier = trained(model_folder("bert"), max_length=SHORT, pair_truncation=truncation)
    assert classifier.state.layout.pair_truncation == truncation
    (row,) = rows_of(classifier.packer([TextPair("a b c d e f g h i", "x y z u v w")]))
    sizes = {"longest_first": (6, 5), "only_second": (9, 2)}[truncation]
    middle = row.index(3)
    assert (middle - 1, len(row) - middle - 2) == sizes


# --- pairs of news ----------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize("model", ["minilm", "gpt2-nano"])
def test_pairs_of_news(data_dir: Path, tmp_path: Path, model: str, request: pytest.FixtureRequest) -> None:
    """Titles of AG News, of the same class or not: other tools give the same probabilities."""
    if not (data_dir / "ag_news").is_dir():
        pytest.skip("needs AG News: PYLLMCLF_DATA_DIR has no folder ag_news")
    source, options = model, {"weights": "random"}
    if model == "minilm":
        source, options = request.getfixturevalue("minilm"), {"pooling": None}
    rows = news(data_dir / "ag_news" / "test.csv")
    train, labels = pairs_of(rows[1000:], 24, 0)
    test, _ = pairs_of(rows[:1000], 12, 1)
    assert len({pair.text for pair in train}) < len(train)  # a text meets several partners
    classifier = trained(source, train=(train, labels), max_length=40, **options)
    classifier.save(tmp_path / "saved")
    expected = classifier.predict_proba(test)
    for name, found in scores_of_others(tmp_path / "saved", test, classifier.classes_).items():
        assert np.abs(found - expected).max() <= 1e-5, name
