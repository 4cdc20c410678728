"""A prompt before each text: tokens of one string, in trainings, predictions, checkpoints and files of other tools."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import LABELS, TEXTS, Folders
from test_sentence_folder import folder, write  # noqa: F401
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from unigram import multilingual_folder, unigram_tokenizer

import pyllmclf
from pyllmclf import DataError, ModelError, UsageError
from pyllmclf.classifier.schema import WITH_PROMPT
from pyllmclf.cli.main import app, run
from pyllmclf.data import token_store
from pyllmclf.data.token_store import TokenStore
from pyllmclf.data.tokenizers import (
    LibraryTokenizer,
    PromptedTokenizer,
    TiktokenTokenizer,
    Tokenizer,
    byte_level_json,
    restore_tokenizer,
    with_prompt,
)
from pyllmclf.data.tokenizers.prompt_template import split_prompt, with_template
from pyllmclf.models.hub import find_model
from pyllmclf.training.callbacks import Callback

PROMPT = "query, "
RUN: dict[str, Any] = {
    "trainable": "last_block", "epochs": 2, "batch_size": 3, "learning_rate": 1e-3, "validation": False,
    "progress": False,
}  # fmt: skip
ODD = [
    "", "hello world", " one space before", "  two", "\nline", "\ttab", "behind  ", "ünïcode Ärger", "日本語 文章",
    "(in brackets)", "'s x", ": colon", "ing", "##ing", "▁x", "\u0301accent", "\u3000wide", "[SEP] a", "<mask> a",
    "<s>a", "query: again",
]  # fmt: skip


def bert_tokenizer(data_dir: Path, case: str) -> LibraryTokenizer:
    return LibraryTokenizer.from_wordpiece_vocab(
        data_dir / "bert_vocab" / f"bert-base-{case}-vocab.txt", {"do_lower_case": case == "uncased"}
    )


@pytest.fixture(params=["uncased", "cased", "XLM-RoBERTa", "Metaspace", "GPT-2", "GPT-2 of bytes"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    kind = request.param
    if kind == "GPT-2":
        request.getfixturevalue("gpt2_vocabulary")
        return TiktokenTokenizer.gpt2()
    if kind == "GPT-2 of bytes":
        return LibraryTokenizer.from_json(byte_level_json([bytes([i]) for i in range(256)]))
    if kind in ("uncased", "cased"):
        return bert_tokenizer(request.getfixturevalue("data_dir"), kind)
    return LibraryTokenizer.from_json(unigram_tokenizer(splits_at_white_space=kind == "XLM-RoBERTa").to_str())


def runs_of_spaces(*, normalized: bool) -> LibraryTokenizer:
    """A byte-level tokenizer of ModernBERT's kind: runs of spaces, and one more text, are added tokens."""
    library = tokenizers.Tokenizer.from_str(byte_level_json([bytes([i]) for i in range(256)]))
    library.normalizer = tokenizers.normalizers.NFC()
    texts = [" " * count for count in range(2, 9)] + ["|||EMAIL|||"]
    library.add_tokens([tokenizers.AddedToken(text, normalized=normalized, special=False) for text in texts])
    return LibraryTokenizer.from_json(library.to_str())


@functools.lru_cache(maxsize=1)
def library_of(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer in the tokenizers library; of GPT-2's encoding that takes seconds."""
    library = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    library.encode_special_tokens = True
    return library


def whole(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Tokens of the texts by the tokenizers library, special tokens included."""
    return [encoding.ids for encoding in library_of(tokenizer).encode_batch(texts)]


def rows(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [[*tokenizer.prefix, *ids, *tokenizer.suffix] for ids in tokenizer.encode_batch(texts)]


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["query: ", "Represent this sentence:\n", "search the web: "])
def test_tokens_of_prompt_and_text_as_one_string(tokenizer: Tokenizer, prompt: str) -> None:
    prompted = with_prompt(tokenizer, prompt)
    assert rows(prompted, ODD) == whole(tokenizer, [prompt + text for text in ODD])
    shared = prompted.prefix[len(tokenizer.prefix) :]
    assert isinstance(prompted, PromptedTokenizer) and len(shared) == prompted.prompt_count > 1

    @settings(max_examples=50, deadline=None)
    @given(st.text("abQ é日,:.'-_0 \t\n\u0301\u00a0", max_size=12))
    def check(text: str) -> None:
        assert rows(prompted, [text]) == whole(tokenizer, [prompt + text])

    check()


def test_the_text_keeps_its_space(gpt2_vocabulary: Path) -> None:
    """Byte-level encodings have the space before a word in the word's token."""
    gpt2 = TiktokenTokenizer.gpt2()
    prompted = with_prompt(gpt2, "query: ")
    decoded = json.loads(gpt2.to_json())["model"]["vocab"]
    names = {number: name for name, number in decoded.items()}
    assert [names[i] for i in prompted.prefix] == ["query", ":"]
    assert [names[i] for i in prompted.encode_batch(["x y"])[0]] == ["Ġx", "Ġy"]


def test_no_prompt_is_the_tokenizer_itself(tokenizer: Tokenizer) -> None:
    assert with_prompt(tokenizer, "") is tokenizer and tokenizer.prompt == ""
    assert with_prompt(tokenizer, "query: ").prompt == "query: "
    assert with_prompt(tokenizer, "query: ").fingerprint != tokenizer.fingerprint


def test_a_prompt_without_an_end(tokenizer: Tokenizer) -> None:
    """Its last word would be one with the text's first."""
    if tokenizer.vocab_size == 257:  # no token has two bytes
        assert with_prompt(tokenizer, "query").prefix == tokenizer.encode_batch(["query"])[0]
        return
    with pytest.raises(UsageError, match=r"prompt='query'.* depend on the text; end it with a space"):
        with_prompt(tokenizer, "query")
    with pytest.raises(UsageError, match=r"prompt='a\\ud800': .*surrogate"):
        with_prompt(bert_like(), "a\ud800")


def bert_like() -> LibraryTokenizer:
    return LibraryTokenizer.from_json(unigram_tokenizer().to_str())


def test_a_text_that_changes_the_prompts_tokens() -> None:
    """A token of the tokenizer's own that reaches from the one into the other."""
    library = unigram_tokenizer()
    library.add_tokens([": zoo"])
    prompted = with_prompt(LibraryTokenizer.from_json(library.to_str()), "query: ")
    assert rows(prompted, ["a zoo"]) == whole(LibraryTokenizer.from_json(library.to_str()), ["query: a zoo"])
    with pytest.raises(DataError, match="'zoo keeper' changes the tokens of the prompt 'query: '"):
        prompted.encode_batch(["a", "zoo keeper"])


def test_long_texts_in_pieces(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt stands before the first piece alone."""
    prompted, texts = with_prompt(tokenizer, "query: "), ["a " * 40 + "cat", "the mat", "one two " * 9]
    monkeypatch.setattr(token_store, "CHARACTERS_PER_CHUNK", 10)
    store = TokenStore.from_texts(texts, prompted)
    found = [[*prompted.prefix, *store[i].tolist(), *prompted.suffix] for i in range(len(store))]
    assert found == whole(tokenizer, ["query: " + text for text in texts])
    monkeypatch.setattr(token_store, "MOST_UNBROKEN", 20)
    # A bare Metaspace begins a piece as if it were a text, with or without a prompt.
    if token_store._may_break(tokenizer):
        assert len(TokenStore.from_texts(texts, prompted)) == 3


@pytest.mark.parametrize("side", ["right", "left"])
def test_files_for_transformers(tokenizer: Tokenizer, tmp_path: Path, side: str) -> None:
    """``AutoTokenizer`` gives the same tokens, and truncation leaves the prompt whole."""
    prompted = with_prompt(tokenizer, "query: ")
    assert isinstance(prompted, PromptedTokenizer) and prompted.obstacle is None
    for name, content in prompted.files(64, side).items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = ODD[1:]
    assert theirs(texts)["input_ids"] == rows(prompted, texts)
    (empty,) = theirs([""])["input_ids"]  # which a normalizer leaves without the prompt's space
    assert empty in (*rows(prompted, [""]), [*prompted.prefix, *prompted.suffix])
    room = 3
    length = len(prompted.prefix) + room + len(prompted.suffix)
    (ids,) = prompted.encode_batch(["the cat sat on a mat"])
    cut = ids[:room] if side == "right" else ids[-room:]
    expected = [*prompted.prefix, *cut, *prompted.suffix]
    assert theirs("the cat sat on a mat", truncation=True, max_length=length)["input_ids"] == expected
    theirs.save_pretrained(tmp_path / "again")
    assert AutoTokenizer.from_pretrained(tmp_path / "again")(texts)["input_ids"] == rows(prompted, texts)


def test_the_prompt_is_taken_out_again(tokenizer: Tokenizer) -> None:
    content, prompt = split_prompt(with_prompt(tokenizer, "query: ").to_json())
    assert prompt == "query: "
    again = LibraryTokenizer.from_json(with_prompt(tokenizer, "query: ").to_json())
    assert (again.file_prompt, again.prefix, again.suffix) == ("query: ", tokenizer.prefix, tokenizer.suffix)
    assert rows(again, ODD[1:]) == rows(tokenizer, ODD[1:])
    before, after = json.loads(tokenizer.to_json()), json.loads(content)
    different = {key for key in before if before[key] != after[key]}
    assert different <= {"post_processor"}  # in the same meaning, as a template
    assert split_prompt(tokenizer.to_json()) == (tokenizer.to_json(), "")
    restored = restore_tokenizer(tokenizer.kind, with_prompt(tokenizer, "query: ").to_json(), {}, "here")
    assert rows(with_prompt(restored, "query: "), ODD) == rows(with_prompt(tokenizer, "query: "), ODD)


@pytest.mark.parametrize("processor", ["BertProcessing", "RobertaProcessing", "TemplateProcessing", "Sequence", "none"])
def test_post_processors(processor: str) -> None:
    library = unigram_tokenizer()
    ends = ("</s>", 2), ("<s>", 0)
    library.post_processor = {
        "BertProcessing": tokenizers.processors.BertProcessing(*ends),
        "RobertaProcessing": tokenizers.processors.RobertaProcessing(*ends),
        "TemplateProcessing": library.post_processor,
        "Sequence": tokenizers.processors.Sequence([tokenizers.processors.ByteLevel(), library.post_processor]),
        "none": None,
    }[processor]
    own = LibraryTokenizer.from_json(library.to_str())
    prompted = with_prompt(own, "query: ")
    written = tokenizers.Tokenizer.from_str(prompted.to_json())
    assert [written.encode(text).ids for text in ODD[1:4]] == rows(prompted, ODD[1:4])
    taken_out = tokenizers.Tokenizer.from_str(split_prompt(prompted.to_json())[0])
    for pair in ((), ("the mat",)):
        assert taken_out.encode("a cat", *pair).ids == library.encode("a cat", *pair).ids
        assert taken_out.encode("a cat", *pair).type_ids == library.encode("a cat", *pair).type_ids


def test_what_a_file_can_not_hold() -> None:
    """Text that joins words of the prompt and of the text, although the prompt's tokens are always the same."""
    bare = LibraryTokenizer.from_json(unigram_tokenizer(splits_at_white_space=False).to_str())
    spaced, joined = with_prompt(bare, "query: "), with_prompt(bare, " ")
    assert isinstance(spaced, PromptedTokenizer) and spaced.obstacle is None
    assert isinstance(joined, PromptedTokenizer) and "prompt ' '" in str(joined.obstacle)
    assert joined.to_json() == bare.to_json()


@pytest.mark.parametrize("normalized", [True, False])
def test_added_tokens_of_a_byte_level_tokenizer(normalized: bool) -> None:
    """A file's normalizer would put the prompt's space behind each of them, or into the text that it is found by."""
    own, texts = runs_of_spaces(normalized=normalized), ["a |||EMAIL||| b", "|||EMAIL|||", "  c"]
    prompted = with_prompt(own, "query: ")
    assert rows(prompted, texts) == whole(own, ["query: " + text for text in texts])
    assert isinstance(prompted, PromptedTokenizer) and "prompt 'query: '" in str(prompted.obstacle)
    assert prompted.to_json() == own.to_json()
    spaced = with_template(own.to_json(), "query: ", prompted.prefix, " ")
    assert spaced is not None
    assert tokenizers.Tokenizer.from_str(spaced).encode(texts[0]).ids != rows(prompted, texts)[0]


@pytest.mark.parametrize("splits", [True, False])
def test_special_tokens_in_texts_of_a_byte_level_tokenizer(splits: bool) -> None:
    """The end-of-text token is such a one where it is no plain text."""
    content = byte_level_json([bytes([i]) for i in range(256)])
    prompted = with_prompt(LibraryTokenizer.from_json(content, splits_special_tokens=splits), "query: ")
    assert isinstance(prompted, PromptedTokenizer) and (prompted.obstacle is None) == splits


# --- trainings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta", "modernbert"])
@pytest.mark.parametrize("changes", [{}, {"trainable": "all", "cache": "off"}, {"trainable": "lora"}], ids=str)
def test_as_texts_that_begin_with_it(model_folder: Folders, family: str, changes: dict[str, Any]) -> None:
    """Losses and logits are those of texts that have the prompt already, to the last bit."""
    path, options = model_folder(family), RUN | changes
    found = pyllmclf.finetune(path, (TEXTS, LABELS), prompt=PROMPT, test=(TEXTS, LABELS), **options)
    joined = [PROMPT + text for text in TEXTS]
    expected = pyllmclf.finetune(path, (joined, LABELS), prompt=None, test=(joined, LABELS), **options)
    assert [each.train_loss for each in found.history] == [each.train_loss for each in expected.history]
    np.testing.assert_array_equal(found.classifier.logits(TEXTS), expected.classifier.logits(joined))
    assert found.metrics["test"]["log_loss"] == expected.metrics["test"]["log_loss"]
    plain = pyllmclf.finetune(path, (TEXTS, LABELS), **options)
    assert not np.allclose(plain.classifier.logits(TEXTS), found.classifier.logits(TEXTS), atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"trainable": "head", "epochs": "auto", "learning_rate": "auto", "batch_size": "auto"},
        {"calibrate": True, "validation": (TEXTS, LABELS)},
        {"early_stopping": 1, "validation": (TEXTS, LABELS)},
        {"padding": "train_longest"},
    ],
    ids=str,
)
def test_other_ways_to_train(model_folder: Folders, changes: dict[str, Any]) -> None:
    path, options = model_folder("bert"), RUN | changes
    joined = [PROMPT + text for text in TEXTS]
    found = pyllmclf.finetune(path, (TEXTS, LABELS), prompt=PROMPT, **options).classifier
    if "validation" in changes:
        options |= {"validation": (joined, LABELS)}
    expected = pyllmclf.finetune(path, (joined, LABELS), **options).classifier
    np.testing.assert_array_equal(found.logits(TEXTS), expected.logits(joined))


def test_rows_that_are_kept_on_disk(model_folder: Folders, tmp_path: Path) -> None:
    """Tokens and frozen rows of another prompt are not taken for this one's."""
    options = {**RUN, "cache": "disk", "cache_dir": tmp_path / "kept"}
    path = model_folder("bert")
    found = {
        prompt: pyllmclf.finetune(path, (TEXTS, LABELS), prompt=prompt, **options).classifier.logits(TEXTS)
        for prompt in ("query, ", "passage, ", None)
    }
    for prompt, logits in found.items():
        fresh = pyllmclf.finetune(path, (TEXTS, LABELS), prompt=prompt, **RUN).classifier.logits(TEXTS)
        np.testing.assert_array_equal(logits, fresh)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_each_window_has_the_prompt(model_folder: Folders, family: str) -> None:
    classifier = pyllmclf.finetune(
        model_folder(family), (TEXTS, LABELS), prompt=PROMPT, long_texts="windows", max_length=14, **RUN
    ).classifier
    packer = classifier.packer(["abcdefghijklmnopqrstuvwxyz"])
    prefix, suffix = classifier.state.tokenizer.prefix, classifier.state.tokenizer.suffix
    assert len(packer) > 2
    read = []
    for i in range(len(packer)):
        ids = packer.batch([i]).input_ids.tolist()
        assert len(ids) <= 14 and ids[: len(prefix)] == prefix and ids[len(ids) - len(suffix) :] == suffix
        read += ids[len(prefix) : len(ids) - len(suffix)]
    assert set(read) == set(packer.tokenizer.encode_batch(["abcdefghijklmnopqrstuvwxyz"])[0])


@pytest.mark.parametrize("long_texts", ["head", "tail", "both"])
def test_truncation_leaves_the_prompt_whole(model_folder: Folders, long_texts: str) -> None:
    options = {**RUN, "long_texts": long_texts, "max_length": 12}
    classifier = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), prompt=PROMPT, **options).classifier
    ids = classifier.packer(["abcdefghij"]).batch([0]).input_ids.tolist()
    text = classifier.state.tokenizer.encode_batch(["abcdefghij"])[0]
    read = {"head": text[:4], "tail": text[-4:], "both": text[:2] + text[-2:]}[long_texts]
    assert ids == [*classifier.state.tokenizer.prefix, *read, *classifier.state.tokenizer.suffix]


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("prompt", [PROMPT, None])
def test_empty_texts_are_counted(model_folder: Folders, family: str, prompt: str | None) -> None:
    """Also where the prompt's last space is a token of the text's."""
    texts = ["", *TEXTS[1:], ""]
    found = pyllmclf.finetune(model_folder(family), (texts, [*LABELS, 1]), prompt=prompt, **RUN)
    assert (found.lengths.empty, found.lengths.texts) == (2, len(texts))


def test_validate_counts_its_tokens(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    (tmp_path / "data.csv").write_text("text,label\nabc,1\nabcd,2\n")
    command = ["validate", str(tmp_path / "data.csv"), "--model", str(folder), "--json"]
    longest = []
    for config in ({}, {"prompts": {"query": PROMPT}, "default_prompt_name": "query"}):
        write(folder, "config_sentence_transformers.json", config)
        assert run(app, "pyllmclf", command) == 0
        longest.append(json.loads(capsys.readouterr().out)["parts"]["train"]["lengths"]["longest"])
    assert longest == [6, 12]
    for prompt, count in (("ab, ", 9), ("none", 6), ("auto", 12)):
        assert run(app, "pyllmclf", [*command, "--prompt", prompt]) == 0
        assert json.loads(capsys.readouterr().out)["parts"]["train"]["lengths"]["longest"] == count


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("abcd " * 12, "50 of a row are special tokens, 48 of them the prompt's"),
        ("ab", "depend on the text; end it with a space"),
        (None, "give model (--model), or leave prompt out"),
    ],
)
def test_validate_refuses_a_prompt(
    model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str | None, said: str
) -> None:
    (tmp_path / "data.csv").write_text("text,label\nabc,1\nabcd,2\n")
    model = [] if prompt is None else ["--model", str(model_folder("bert"))]
    assert run(app, "pyllmclf", ["validate", str(tmp_path / "data.csv"), *model, "--prompt", prompt or "ab "]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"max_length": 8}, {"padding": 8}, {"prompt": "abcd " * 12}], ids=str)
def test_a_prompt_that_leaves_no_room(model_folder: Folders, changes: dict[str, Any]) -> None:
    count = 48 if "prompt" in changes else 6
    with pytest.raises(UsageError, match=f"{count + 2} of a row are special tokens, {count} of them the prompt's"):
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **{"prompt": PROMPT} | RUN | changes)


@pytest.mark.parametrize("prompt", [3, ["query: "], b"query: ", "\ud800"])
def test_wrong_prompts(prompt: Any) -> None:
    with pytest.raises(UsageError, match=r"prompt=.* must be a string of valid Unicode"):
        pyllmclf.finetune("gpt2-nano", (TEXTS, LABELS), prompt=prompt)


def test_the_estimator_has_it(model_folder: Folders) -> None:
    from pyllmclf.sklearn import LLMClassifier

    changes = {name: value for name, value in RUN.items() if name != "validation"}
    path = model_folder("bert")
    found = LLMClassifier(path, prompt=PROMPT, **changes).fit(TEXTS, LABELS)
    expected = pyllmclf.finetune(path, (TEXTS, LABELS), prompt=PROMPT, **RUN).classifier
    np.testing.assert_allclose(found.predict_proba(TEXTS), expected.predict_proba(TEXTS), atol=1e-6)


def test_a_search_compares_prompts(model_folder: Folders) -> None:
    texts, labels = TEXTS * 4, LABELS * 4
    candidates = {"prompt": [None, PROMPT]}
    fixed = {name: value for name, value in RUN.items() if name != "validation"} | {"epochs": 1}
    path = model_folder("bert")
    found = pyllmclf.tune(path, (texts, labels), candidates=candidates, folds=2, test=False, **fixed)
    assert len(found.leaderboard) == 2
    chosen = found.classifier.state.settings["prompt"]
    assert found.classifier.state.tokenizer.prompt == chosen in ("", PROMPT)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("trainable", ["last_block", "lora"])
def test_saved_and_opened(model_folder: Folders, tmp_path: Path, family: str, trainable: str) -> None:
    options = {**RUN, "trainable": trainable, "prompt": PROMPT, "output_dir": tmp_path / "run"}
    classifier = pyllmclf.finetune(model_folder(family), (TEXTS, LABELS), **options).classifier
    spec = json.loads((tmp_path / "run/last/pyllmclf.json").read_text())
    assert (spec["format_version"], spec["tokenizer"]["prompt"], spec["settings"]["prompt"]) == (3, PROMPT, PROMPT)
    assert "| prompt | `query, ` |" in (tmp_path / "run/last/README.md").read_text(encoding="utf-8")
    loaded = pyllmclf.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.logits(TEXTS), classifier.logits(TEXTS))
    loaded.save(tmp_path / "saved")
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "saved").logits(TEXTS), classifier.logits(TEXTS))


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("prompt", ["auto", PROMPT])
def test_a_resumed_run_has_the_same(model_folder: Folders, tmp_path: Path, family: str, prompt: str) -> None:
    def train(**changes: Any) -> pyllmclf.FinetuneResult:
        arguments = {**RUN, "output_dir": tmp_path / "run", "save_every_steps": 1} | changes
        return pyllmclf.finetune(model_folder(family), (TEXTS, LABELS), **arguments)

    expected = train(prompt=PROMPT, output_dir=None, save_every_steps=None)
    with pytest.raises(Stopped):
        train(prompt=PROMPT, callbacks=Stop())
    for other in ("pass, ", None):
        with pytest.raises(UsageError, match=r"prompt was 'query, ' there, and is '(pass, )?'"):
            train(prompt=other, resume=True)
    found = train(prompt=prompt, resume=True)
    np.testing.assert_array_equal(found.classifier.logits(TEXTS), expected.classifier.logits(TEXTS))


class Stopped(BaseException):
    """Nothing handles it."""


class Stop(Callback):
    def on_step(self, record: Any) -> None:
        if record.step == 2:
            raise Stopped


def without_record(checkpoint: Path) -> None:
    """Makes a checkpoint one of a version that had no prompts."""
    from pyllmclf.data.atomic_folder import MANIFEST

    for name in ("pyllmclf.json", "training_state/state.json"):
        content = json.loads((checkpoint / name).read_text())
        settings = content["settings"] if "settings" in content else content["identity"]["settings"]
        assert settings.pop("prompt") == ""
        content.get("tokenizer", {}).pop("prompt", None)
        (checkpoint / name).write_text(json.dumps(content))
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    import hashlib

    for name in ("pyllmclf.json", "training_state/state.json"):
        entry = hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()
        manifest["files"][name] = {
            **manifest["files"][name],
            "sha256": entry,
            "bytes": (checkpoint / name).stat().st_size,
        }
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def test_a_checkpoint_of_before_has_none(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Also where the model's folder names a prompt now."""
    options = {**RUN, "output_dir": tmp_path / "run"}
    before = pyllmclf.finetune(folder, (TEXTS, LABELS), **options).classifier.logits(TEXTS)
    without_record((tmp_path / "run/last").resolve())
    write(folder, "config_sentence_transformers.json", {"prompts": {"query": PROMPT}, "default_prompt_name": "query"})
    assert pyllmclf.load(tmp_path / "run").state.tokenizer.prompt == ""
    again = pyllmclf.finetune(folder, (TEXTS, LABELS), resume=True, **options)
    np.testing.assert_array_equal(again.classifier.logits(TEXTS), before)


# --- models that name a prompt ----------------------------------------------------------------------------------------


def prompts(**named: Any) -> dict[str, Any]:
    return {"prompts": {"query": PROMPT, "passage": "passage, "}, "default_prompt_name": None} | named


@pytest.mark.parametrize(
    ("config", "asked", "prompt"),
    [
        (prompts(), "auto", ""),
        (prompts(default_prompt_name="query"), "auto", PROMPT),
        (prompts(default_prompt_name="query"), None, ""),
        (prompts(default_prompt_name="query"), "", ""),
        (prompts(default_prompt_name="query"), "a, ", "a, "),
        ({"__version__": {}}, "auto", ""),
        (None, "auto", ""),
    ],
    ids=repr,
)
def test_the_prompt_of_a_folder(
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    config: Any,
    asked: str | None,
    prompt: str,
) -> None:
    if config is not None:
        write(folder, "config_sentence_transformers.json", config)
    given = {**RUN, "progress": True, "scheduler": "constant", "warmup_ratio": 0.0, "prompt": asked}
    classifier = pyllmclf.finetune(folder, (TEXTS, LABELS), **given).classifier
    assert (classifier.state.tokenizer.prompt, classifier.state.settings["prompt"]) == (prompt, prompt)
    chosen = f"chosen automatically: prompt={prompt!r}"
    assert (chosen in capsys.readouterr().err) == (asked == "auto" and prompt != "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[1]", "not a JSON object"),
        ("{", "can't be read"),
    ],
)
def test_damaged_prompts(folder: Path, content: str, said: str) -> None:  # noqa: F811
    (folder / "config_sentence_transformers.json").write_text(content)
    with pytest.raises(ModelError, match=rf"config_sentence_transformers\.json: .*{said}"):
        find_model(folder, "pretrained")


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"default_prompt_name": "query"}, "'query'"),
        ({"default_prompt_name": ["x"], "prompts": {"x": "a "}}, r"\['x'\]"),
        ({"default_prompt_name": "query", "prompts": {"query": 3}}, "'query'"),
    ],
)
def test_a_missing_default_prompt(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    shown: str,
) -> None:
    """An error where the prompt is left to the model, and no obstacle to another one."""
    write(folder, "config_sentence_transformers.json", config)
    said = (
        rf"config_sentence_transformers\.json: default_prompt_name is {shown}, and prompts has no string of that name; "
        r"give prompt to read the text otherwise\."
    )
    with pytest.raises(ModelError, match=said):
        pyllmclf.finetune(folder, (TEXTS, LABELS), **RUN)
    for prompt in (PROMPT, None):
        classifier = pyllmclf.finetune(folder, (TEXTS, LABELS), prompt=prompt, **RUN).classifier
        assert classifier.state.tokenizer.prompt == (prompt or "")
    (tmp_path / "data.csv").write_text("text,label\nabc,1\nabcd,2\n")
    command = ["validate", str(tmp_path / "data.csv"), "--model", str(folder)]
    assert run(app, "pyllmclf", command) == 4
    assert "give prompt to read the text otherwise" in capsys.readouterr().err
    assert run(app, "pyllmclf", [*command, "--prompt", "none"]) == 0
    assert pyllmclf.load(folder).classes_ == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_a_pooling_that_leaves_the_prompt_out(folder: Path) -> None:  # noqa: F811
    write(folder, "1_Pooling/config.json", {"pooling_mode_mean_tokens": True, "include_prompt": False})
    with pytest.raises(ModelError, match="leaves the prompt out of the mean"):
        pyllmclf.finetune(folder, (TEXTS, LABELS), prompt=PROMPT, **RUN)
    for changes in ({"prompt": None}, {"prompt": PROMPT, "pooling": "mean"}):
        assert pyllmclf.finetune(folder, (TEXTS, LABELS), **changes, **RUN).history


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_trained_further(model_folder: Folders, tmp_path: Path, family: str, trainable: str) -> None:
    """A checkpoint's own prompt is the automatic one, once; another one takes its place."""
    options = {**RUN, "trainable": trainable, "epochs": 1}
    first = pyllmclf.finetune(
        model_folder(family), (TEXTS, LABELS), prompt=PROMPT, output_dir=tmp_path / "run", **options
    ).classifier
    last = tmp_path / "run/last"
    options |= {"learning_rate": 1e-12}
    again = pyllmclf.finetune(last, (TEXTS, LABELS), **options).classifier
    assert again.state.tokenizer.prefix == first.state.tokenizer.prefix
    np.testing.assert_allclose(again.logits(TEXTS), first.logits(TEXTS), atol=1e-5)
    other = pyllmclf.finetune(last, (TEXTS, LABELS), prompt="passage, ", **options).classifier
    assert other.state.tokenizer.prompt == "passage, "
    none = pyllmclf.finetune(last, (TEXTS, LABELS), prompt=None, **options).classifier
    np.testing.assert_allclose(none.logits([PROMPT + text for text in TEXTS]), first.logits(TEXTS), atol=1e-5)


# --- other tools ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta"])
def test_transformers_gives_the_same_logits(model_folder: Folders, tmp_path: Path, family: str) -> None:
    classifier = pyllmclf.finetune(model_folder(family), (TEXTS, LABELS), prompt=PROMPT, **RUN).classifier
    classifier.export(tmp_path / "export")
    texts = [*TEXTS, "  spaces before"]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    batch = AutoTokenizer.from_pretrained(tmp_path / "export")(texts, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        theirs = model(**batch).logits.numpy()
    np.testing.assert_allclose(theirs, classifier.logits(texts), atol=1e-5)
    opened = pyllmclf.load(tmp_path / "export")
    assert opened.state.tokenizer.prompt == PROMPT
    np.testing.assert_allclose(opened.logits(texts), classifier.logits(texts), atol=1e-6)


@pytest.fixture
def export(model_folder: Folders, tmp_path: Path) -> Path:
    """An exported classifier with a prompt, as transformers would have written it: without a manifest."""
    classifier = pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), prompt=PROMPT, **RUN).classifier
    classifier.export(tmp_path / "export")
    (tmp_path / "export/manifest.json").unlink()
    return tmp_path / "export"


@pytest.mark.parametrize(("length", "fits"), [(9, True), (8, False), (3, False), (1, False)])
def test_room_beside_the_prompt_of_an_export(export: Path, length: int, fits: bool) -> None:
    """Six tokens of the prompt, [CLS] and [SEP]."""
    config = json.loads((export / "tokenizer_config.json").read_text())
    write(export, "tokenizer_config.json", config | {"model_max_length": length})
    if fits:
        logits = pyllmclf.load(export).logits(["a", "b"])
        assert not np.allclose(logits[0], logits[1])
        return
    said = (
        rf"tokenizer_config\.json: model_max_length={length} leaves no room for text beside the tokenizer's 8 special"
    )
    with pytest.raises(ModelError, match=said):
        pyllmclf.load(export)


def forge(export: Path, prompt: str) -> None:
    """Names another prompt in ``tokenizer.json``."""
    content = (export / "tokenizer.json").read_text(encoding="utf-8")
    assert f"pyllmclf prompt: {PROMPT}" in content
    (export / "tokenizer.json").write_text(content.replace(f"prompt: {PROMPT}", f"prompt: {prompt}"), encoding="utf-8")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("query", r"tokenizer\.json: prompt='query': .* depend on the text"),
        ("abcd " * 12, r"config\.json: a length of 48 positions leaves no room for text beside .* 50 special tokens"),
    ],
)
def test_a_forged_prompt_of_an_export(export: Path, prompt: str, said: str) -> None:
    (export / "tokenizer_config.json").write_text('{"model_max_length": Infinity}')
    assert pyllmclf.load(export).state.layout.max_length == 48
    forge(export, prompt)
    with pytest.raises(ModelError, match=said):
        pyllmclf.load(export)


def test_a_prompt_that_other_tools_can_not_read(model_folder: Folders, tmp_path: Path) -> None:
    """The checkpoint has it nevertheless, and so has a training that goes on from it."""
    options = {**RUN, "output_dir": tmp_path / "run", "prompt": " "}
    classifier = pyllmclf.finetune(model_folder("gpt2"), (TEXTS, LABELS), **options).classifier
    for format in ("huggingface", "onnx"):
        with pytest.raises(UsageError, match=r"can't be exported: a tokenizer\.json can't put the prompt ' '"):
            classifier.export(tmp_path / format, format=format)
    config = json.loads((tmp_path / "run/last/config.json").read_text())
    assert config["model_type"] == "pyllmclf"
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "run").logits(TEXTS), classifier.logits(TEXTS))
    assert find_model(tmp_path / "run/last", "pretrained").prompt == " "


def test_onnx(model_folder: Folders, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    classifier = pyllmclf.finetune(model_folder("bert", "one_head"), (TEXTS, LABELS), prompt=PROMPT, **RUN).classifier
    classifier.export(tmp_path / "graph", format="onnx")
    batch = AutoTokenizer.from_pretrained(tmp_path / "graph")(TEXTS, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(tmp_path / "graph/model.onnx", providers=["CPUExecutionProvider"])
    names = ("input_ids", "attention_mask")
    (found,) = session.run(["logits"], {name: batch[name].astype(np.int64) for name in names})
    np.testing.assert_allclose(found, classifier.logits(TEXTS), atol=1e-4)


# --- multilingual-e5-small's layout -----------------------------------------------------------------------------------

MULTILINGUAL = ["hello world", "l'été où", "привет мир", "日本 語", "  the   cat", "<mask> </s>", "Größe: 123"]


def test_a_bert_with_the_tokenizer_of_xlm_roberta(tmp_path: Path) -> None:
    """Tokens and the mean of the hidden states are those of transformers, as sentence-transformers computes them."""
    path = multilingual_folder(tmp_path / "model")
    source = find_model(path, "pretrained")
    assert (source.config.model_type, source.tokenizer.pad_token_id) == ("bert", 1)
    assert (source.tokenizer.prefix, source.tokenizer.suffix) == ([0], [2])
    assert source.tokenizer.vocab_size + 35 == source.config.vocab_size
    classifier = pyllmclf.finetune(path, (TEXTS, LABELS), prompt="query: ", **{**RUN, "trainable": "head"}).classifier
    assert (classifier.state.model.spec.pooling, classifier.state.layout.max_length) == ("mean", 40)
    theirs, reference = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    joined = ["query: " + text for text in MULTILINGUAL]
    batch = theirs(joined, padding=True, truncation=True, max_length=40, return_tensors="pt", split_special_tokens=True)
    batch.pop("token_type_ids", None)
    assert (batch["input_ids"] == 1).any()
    packer = classifier.packer(MULTILINGUAL)
    for i, ids in enumerate(batch["input_ids"]):
        assert packer.batch([i]).input_ids.tolist() == ids[batch["attention_mask"][i].bool()].tolist()
    with torch.no_grad():
        states, mask = reference(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(2)
        mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
        head = classifier.state.model.head
        expected = torch.nn.functional.linear(mean, head.weight.cpu(), head.bias.cpu())
    np.testing.assert_allclose(classifier.logits(MULTILINGUAL), expected.numpy(), atol=1e-4)


def test_its_checkpoint(tmp_path: Path) -> None:
    path = multilingual_folder(tmp_path / "model")
    classifier = pyllmclf.finetune(
        path, (TEXTS, LABELS), prompt="query: ", pooling="first", output_dir=tmp_path / "run", **RUN
    ).classifier
    np.testing.assert_array_equal(pyllmclf.load(tmp_path / "run").logits(MULTILINGUAL), classifier.logits(MULTILINGUAL))
    batch = AutoTokenizer.from_pretrained(tmp_path / "run/last")(MULTILINGUAL, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run/last").eval()
    with torch.no_grad():
        theirs = model(**batch).logits.numpy()
    np.testing.assert_allclose(theirs, classifier.logits(MULTILINGUAL), atol=1e-5)


def test_the_command_line(model_folder: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in zip(TEXTS, LABELS, strict=True)))
    options = ["--trainable", "head", "--validation", "none", "--no-progress", "--epochs", "1"]
    for option, prompt in ((PROMPT, PROMPT), ("none", ""), ("auto", "")):
        out = tmp_path / f"out-{option.strip()}"
        places = ["--model", str(model_folder("bert")), "--prompt", option, "--output-dir", str(out)]
        assert run(app, "pyllmclf", ["finetune", str(data), *places, *options]) == 0, capsys.readouterr().err
        assert json.loads((out / "last/pyllmclf.json").read_text())["settings"]["prompt"] == prompt
    assert json.loads((tmp_path / "out-query,/last/pyllmclf.json").read_text())["format_version"] == WITH_PROMPT
