"""A local server with the hub's layout: which revision is asked for, and what is said where the hub refuses."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from huggingface_hub import constants
from models import LABELS, TEXTS, Folders
from safetensors.torch import load_file, save_file
from unigram import multilingual_folder

import pyllmclf
from pyllmclf import ModelError, UsageError
from pyllmclf.data.tokenizers import TiktokenTokenizer
from pyllmclf.models.hub import find_model

SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 3, "progress": False, "trainable": "head"}
DATA = (TEXTS, [str(label) for label in LABELS])


class Hub:
    """Repositories of the server: a folder for each commit, names of commits, and what goes wrong.

    Attributes
    ----------
    commits : dict of str to (commit, folder)
        By ``id@revision``.
    fault : (int, str) or None
        Status and ``X-Error-Code`` of every answer.
    delay : float
        Seconds before each answer.
    asked : list of str
        Method and path of each request.
    pull_requests : dict of str to list of (number, author)
        Of each repository; the files of one have the revision ``refs/pr/NUMBER``.
    """

    def __init__(self) -> None:
        self.commits: dict[str, tuple[str, Path]] = {}
        self.fault: tuple[int, str] | None = None
        self.delay = 0.0
        self.asked: list[str] = []
        self.pull_requests: dict[str, list[tuple[int, str]]] = {}

    def publish(self, hub_id: str, folder: Path, commit: str, revision: str = "main") -> str:
        self.commits[f"{hub_id}@{revision}"] = self.commits[f"{hub_id}@{commit}"] = (commit, folder)
        return commit

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        time.sleep(self.delay)
        if self.fault is not None:
            return self.fault[0], {"X-Error-Code": self.fault[1]} if self.fault[1] else {}, b""
        if path.startswith("/api/models/"):
            return self.discussions(path.removeprefix("/api/models/").partition("/discussions")[0])
        hub_id, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        revision = unquote(revision)
        if not any(key.startswith(f"{hub_id}@") for key in self.commits):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if f"{hub_id}@{revision}" not in self.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        commit, folder = self.commits[f"{hub_id}@{revision}"]
        headers = {"X-Repo-Commit": commit}
        if not (folder / name).is_file():
            return 404, headers | {"X-Error-Code": "EntryNotFound"}, b""
        content = (folder / name).read_bytes()
        return 200, headers | {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content

    def discussions(self, hub_id: str) -> tuple[int, dict[str, str], bytes]:
        """All of them, whichever are asked for."""
        each = [
            {
                "num": number,
                "title": "Adding `safetensors` variant of this model",
                "author": {"name": author},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "status": "open",
                "isPullRequest": True,
                "repo": {"name": hub_id, "type": "model"},
            }
            for number, author in self.pull_requests.get(hub_id, [])
        ]
        content = json.dumps({"discussions": each, "count": len(each), "start": 0})
        return 200, {"Content-Type": "application/json"}, content.encode()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server, as the hub that huggingface_hub asks; with an empty cache."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/resolve/" in self.path:
                served.asked.append(f"{self.command} {self.path}")
            status, headers, content = served.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path / "hub-cache")
    yield served
    server.shutdown()
    server.server_close()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def folder(model_folder: Folders, tmp_path: Path) -> Path:
    return model_folder.copy(tmp_path / "repository", "bert")


def changed(folder: Path, to: Path) -> Path:
    """A later commit of a repository, with other weights."""
    shutil.copytree(folder, to)
    tensors = {name: tensor * 1.5 for name, tensor in load_file(to / "model.safetensors").items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


# --- revisions --------------------------------------------------------------------------------------------------------


def test_a_new_commit_is_noticed(hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("someone/bert", folder, "a" * 40)
    assert find_model("someone/bert", "pretrained").revision == "a" * 40
    hub.asked.clear()
    assert find_model("someone/bert", "pretrained").revision == "a" * 40
    assert len(hub.asked) == 1, hub.asked  # what is cached is not fetched again
    hub.publish("someone/bert", changed(folder, tmp_path / "later"), "b" * 40)
    assert find_model("someone/bert", "pretrained").revision == "b" * 40
    # Offline nothing is asked, and the newest cached commit is used.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert find_model("someone/bert", "pretrained").revision == "b" * 40
    assert find_model("someone/bert", "pretrained", "a" * 40).revision == "a" * 40
    assert hub.asked == []


def test_revision(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.publish("someone/bert", folder, "a" * 40)
    hub.publish("someone/bert", changed(folder, tmp_path / "later"), "b" * 40, "v2")
    for name, revision in (("someone/bert@v2", None), ("someone/bert", "v2"), ("someone/bert@v2", "v2")):
        assert find_model(name, "pretrained", revision).revision == "b" * 40
    hub.asked.clear()
    assert find_model("someone/bert@" + "b" * 40, "pretrained").revision == "b" * 40
    assert hub.asked == []  # a commit never changes
    result = pyllmclf.finetune("someone/bert", DATA, revision="v2", output_dir=tmp_path / "out", **SHORT)
    spec = json.loads((tmp_path / "out/last/pyllmclf.json").read_text())
    assert (spec["base"]["hub_id"], spec["base"]["revision"]) == ("someone/bert", "b" * 40)
    assert spec["settings"]["revision"] == "v2"
    assert result.classifier.state.revision == "b" * 40
    with pytest.raises(ModelError, match="no such revision"):
        find_model("someone/bert", "pretrained", "v3")


def test_a_resumed_run_stays_on_its_commit(hub: Hub, folder: Path, tmp_path: Path) -> None:
    hub.publish("someone/bert", folder, "a" * 40)
    lora: dict[str, Any] = SHORT | {"trainable": "lora", "lora": {"rank": 2}}
    first = pyllmclf.finetune("someone/bert", DATA, output_dir=tmp_path / "out", **lora).classifier
    hub.publish("someone/bert", changed(folder, tmp_path / "later"), "b" * 40)
    again = pyllmclf.finetune("someone/bert", DATA, output_dir=tmp_path / "out", resume=True, **lora).classifier
    np.testing.assert_array_equal(again.logits(TEXTS), first.logits(TEXTS))
    assert again.state.revision == "a" * 40


@pytest.mark.parametrize(
    ("model", "weights", "revision", "word"),
    [
        ("someone/bert@v1", "pretrained", "v2", "names a revision"),
        ("someone/bert@", "pretrained", None, "names a revision"),
        ("gpt2-nano", "random", "main", "has no effect"),
        (".", "pretrained", "main", "has no effect"),
    ],
)
def test_revision_without_sense(model: str, weights: str, revision: str | None, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        find_model(model, weights, revision)


@pytest.mark.parametrize("revision", ["", " ", 5, True, " main"])
def test_revision_that_is_no_name(revision: Any) -> None:
    with pytest.raises(UsageError, match="revision="):
        pyllmclf.finetune("gpt2", DATA, revision=revision)


# --- what goes wrong --------------------------------------------------------------------------------------------------

FAULTS = [
    (401, "", "401.*log in"),
    (401, "RepoNotFound", "401.*log in"),
    (401, "GatedRepo", "gated.*log in"),
    (403, "", "403.*private or gated"),
    (403, "GatedRepo", "gated"),
    (404, "", "no such repository"),
    (404, "RepoNotFound", "no such repository"),
    (404, "RevisionNotFound", "no such revision"),
    (404, "EntryNotFound", "has no config.json"),
    (429, "", r"429.*wait"),
    (500, "", r"fault of its own \(500\)"),
    (503, "", r"fault of its own \(503\)"),
]


@pytest.mark.parametrize(("status", "code", "words"), FAULTS)
def test_fault_of_the_hub_is_named(hub: Hub, folder: Path, status: int, code: str, words: str) -> None:
    hub.fault = (status, code)
    with pytest.raises(ModelError, match=words) as raised:
        find_model("someone/bert", "pretrained")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("someone/bert: ")


def test_cached_commit_is_used_where_the_hub_has_a_fault(
    hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: str
) -> None:
    hub.publish("someone/bert", folder, "a" * 40)
    find_model("someone/bert", "pretrained")
    for status, code in ((401, ""), (403, "GatedRepo"), (404, "RepoNotFound"), (429, ""), (500, "")):
        hub.fault = (status, code)
        with pytest.warns(RuntimeWarning, match=r"someone/bert: .*; the cached commit aaaaaaaaaaaa is used\."):
            assert find_model("someone/bert", "pretrained").revision == "a" * 40
    hub.fault = (404, "RevisionNotFound")
    with pytest.raises(ModelError, match="no such revision"):
        find_model("someone/bert", "pretrained")
    use_endpoint(monkeypatch, closed_port, tmp_path / "hub-cache")
    with pytest.warns(RuntimeWarning, match="can't be reached.*the cached commit") as warned:
        assert find_model("someone/bert", "pretrained").revision == "a" * 40
    assert len(warned) == 1
    with pytest.raises(ModelError, match="can't be reached"):
        find_model("someone/other", "pretrained")


def test_hub_that_does_not_answer(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("someone/bert", folder, "a" * 40)
    hub.delay = 3.0
    import huggingface_hub.file_download as client

    function = client.get_hf_file_metadata
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: function(url, timeout=0.2))
    with pytest.raises(ModelError, match="does not answer in time"):
        find_model("someone/bert", "pretrained")


@pytest.fixture
def pickled(hub: Hub, folder: Path, tmp_path: Path) -> Path:
    """A repository with pickles alone; returns a copy with safetensors, which is not published."""
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    copy = changed(folder, tmp_path / "converted")
    (folder / "model.safetensors").unlink()
    hub.publish("someone/bert", folder, "a" * 40)
    return copy


def test_pickles_alone(hub: Hub, pickled: Path) -> None:
    said = (
        r"pytorch_model\.bin is a pickle file, which is never opened; convert it if you trust its author: python -c "
        r"\"import transformers as t; \[c\.from_pretrained\('someone/bert'\)\.save_pretrained\('converted'\) for c in "
        r"\(t\.AutoModelForSequenceClassification, t\.AutoTokenizer\)\]\""
    )
    with pytest.raises(ModelError, match=said):
        find_model("someone/bert", "pretrained")
    assert "GET /someone/bert/resolve/" + "a" * 40 + "/pytorch_model.bin" not in hub.asked


def test_the_bot_s_conversion_takes_the_place_of_pickles(
    hub: Hub, pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found online, and afterwards in the cache; another author's pull request is not taken."""
    hub.pull_requests["someone/bert"] = [(9, "somebody"), (4, "SFconvertbot"), (2, "SFconvertbot")]
    hub.publish("someone/bert", pickled, "4" * 40, "refs/pr/4")
    for number in (9, 2):
        wrong = changed(pickled, tmp_path / str(number))
        hub.publish("someone/bert", wrong, f"{number}" * 40, f"refs/pr/{number}")
    with pytest.warns(RuntimeWarning, match="pull request 4, in which the hub's SFconvertbot has converted them"):
        source = find_model("someone/bert", "pretrained")
    assert source.revision == "4" * 40 and source.folder is not None
    assert (source.folder / "model.safetensors").read_bytes() == (pickled / "model.safetensors").read_bytes()
    assert not [path for path in hub.asked if path.startswith("GET") and path.endswith("pytorch_model.bin")]
    # The commit alone says which weights they are.
    assert find_model("someone/bert@" + "4" * 40, "pretrained").folder == source.folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert find_model("someone/bert@" + "4" * 40, "pretrained").folder == source.folder
    # The cache does not say whose pull request it is.
    with pytest.raises(ModelError, match="the cache holds the weights of refs/pr/4, which revision='refs/pr/4' names"):
        find_model("someone/bert", "pretrained")
    assert find_model("someone/bert@refs/pr/4", "pretrained").revision == "4" * 40


@pytest.mark.parametrize("changed_file", ["config.json", "pytorch_model.bin", "model.safetensors"])
def test_a_conversion_of_other_files_is_not_taken(hub: Hub, pickled: Path, changed_file: str) -> None:
    if changed_file == "model.safetensors":
        (pickled / changed_file).unlink()
    else:
        (pickled / changed_file).write_text((pickled / changed_file).read_text() + " ")
    hub.pull_requests["someone/bert"] = [(4, "SFconvertbot")]
    hub.publish("someone/bert", pickled, "4" * 40, "refs/pr/4")
    with pytest.raises(ModelError, match="convert it"):
        find_model("someone/bert", "pretrained")


def test_a_named_revision_is_never_replaced(hub: Hub, pickled: Path) -> None:
    hub.pull_requests["someone/bert"] = [(4, "SFconvertbot")]
    hub.publish("someone/bert", pickled, "4" * 40, "refs/pr/4")
    with pytest.raises(ModelError, match="name a revision that has safetensors"):
        find_model("someone/bert@" + "a" * 40, "pretrained")
    assert find_model("someone/bert@refs/pr/4", "pretrained").revision == "4" * 40


def test_no_vocabulary_beside_a_tokenizer(hub: Hub, model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder.copy(tmp_path / "repository", "gpt2")
    for name in ("vocab.json", "merges.txt", "vocab.txt"):
        (folder / name).write_text("")
    hub.publish("someone/gpt2", folder, "a" * 40)
    assert find_model("someone/gpt2", "pretrained").revision == "a" * 40
    assert not [path for path in hub.asked if "vocab" in path or "merges" in path]


def test_damaged_weights_of_the_cache(hub: Hub, folder: Path) -> None:
    hub.publish("someone/bert", folder, "a" * 40)
    found = find_model("someone/bert", "pretrained").folder
    assert found is not None
    blob = (found / "model.safetensors").resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{blob}: damaged.*[Dd]elete this file") as raised:
        find_model("someone/bert", "pretrained")
    assert "model.safetensors is fetched again" in str(raised.value)
    blob.unlink()
    find_model("someone/bert", "pretrained")
    assert blob.read_bytes() == (folder / "model.safetensors").read_bytes()


# --- GPT-2's vocabulary -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json"])
def test_preset_gpt2_from_the_hub_s_cache_alone(
    hub: Hub, gpt2_vocabulary: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    published = TiktokenTokenizer.gpt2()
    content = json.loads(published.to_json())
    repository = tmp_path / "repository"
    repository.mkdir()
    vocabulary = content["model"]["vocab"]
    if layout == "tokenizer.json":
        (repository / layout).write_text(json.dumps(content))
    else:
        (repository / layout).write_text(json.dumps(vocabulary))
        merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"])
        (repository / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    hub.publish("openai-community/gpt2", repository, "a" * 40)
    from huggingface_hub import hf_hub_download

    for path in repository.iterdir():
        hf_hub_download("openai-community/gpt2", path.name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def unavailable(name: str) -> Any:
        raise OSError("no network")

    monkeypatch.setattr("tiktoken.get_encoding", unavailable)
    tokenizer = find_model("gpt2", "random").tokenizer
    assert tokenizer.fingerprint == published.fingerprint
    lines = (data_dir / "sms_spam" / "SMSSpamCollection").read_text(encoding="utf-8").splitlines()
    assert tokenizer.encode_batch(lines) == published.encode_batch(lines)


# --- presets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["e5-small-v2", "multilingual-e5-small"])
def test_presets_with_a_prompt(hub: Hub, model_folder: Folders, tmp_path: Path, preset: str) -> None:
    """By the preset's name or by its repository's; the files themselves name none."""
    repository = tmp_path / "repository"
    if preset == "multilingual-e5-small":
        repository.mkdir()
        multilingual_folder(repository)
    else:
        model_folder.copy(repository, "bert")
    hub.publish(f"intfloat/{preset}", repository, "a" * 40)
    for name in (preset, f"intfloat/{preset}", f"{preset}@main", f"intfloat/{preset}@" + "a" * 40):
        source = find_model(name, "pretrained")
        assert (source.prompt, source.hub_id, source.revision) == ("query: ", f"intfloat/{preset}", "a" * 40)
    classifier = pyllmclf.finetune(preset, DATA, **SHORT).classifier
    assert classifier.state.tokenizer.prompt == "query: "
    joined = [f"query: {text}" for text in TEXTS]
    plain = pyllmclf.finetune(preset, (joined, DATA[1]), prompt=None, **SHORT).classifier
    assert plain.state.tokenizer.prompt == ""
    np.testing.assert_array_equal(classifier.logits(TEXTS), plain.logits(joined))


def test_the_prompt_of_a_repository(hub: Hub, folder: Path) -> None:
    """Its default one is asked for where the model comes from sentence-transformers."""
    named = {"prompts": {"query": "q, "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(named))
    hub.publish("someone/bert", folder, "a" * 40)
    assert find_model("someone/bert", "pretrained").prompt == ""
    assert not any("config_sentence_transformers" in asked for asked in hub.asked)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
    (folder / "modules.json").write_text(json.dumps([pooling]))
    hub.publish("someone/sentence", folder, "b" * 40)
    assert find_model("someone/sentence", "pretrained").prompt == "q, "


def test_the_prompt_of_a_published_checkpoint(hub: Hub, model_folder: Folders, tmp_path: Path) -> None:
    """Also one that ``tokenizer.json`` can't hold, without any other file of sentence-transformers."""
    run = {**SHORT, "validation": False, "trainable": "all", "output_dir": tmp_path / "run", "prompt": " "}
    first = pyllmclf.finetune(model_folder("gpt2"), DATA, **run).classifier
    last = tmp_path / "run/last"
    assert not (last / "modules.json").exists()
    hub.publish("someone/classifier", last, "a" * 40)
    assert find_model("someone/classifier", "pretrained").prompt == " "
    still = {**SHORT, "validation": False, "trainable": "all", "learning_rate": 1e-12}
    again = pyllmclf.finetune("someone/classifier", DATA, **still).classifier
    assert again.state.tokenizer.prompt == " "
    np.testing.assert_allclose(again.logits(TEXTS), first.logits(TEXTS), atol=1e-5)
