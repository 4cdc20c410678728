"""Errors that occur in practice, each with its exit code and message; ``pytest -v`` prints the table.

Faults that need many runs are in ``test_faults.py`` (kills, failing writes, damage), those of several processes in
``test_distributed.py``.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import Folders
from safetensors.torch import load_file, save_file

import pyllmclf
import pyllmclf.training.run_folder as run_folder_module
from pyllmclf.cli.main import app, eval_app, run
from pyllmclf.data import atomic_folder
from pyllmclf.data.readers import read_file, read_object
from pyllmclf.models.sequence_classifier import SequenceClassifier
from pyllmclf.training.trainer import Trainer

NANO = ("finetune", "--model", "gpt2-nano", "--weights", "random", "--no-progress", "--epochs", "2")
ROWS = [(f"The parcel {i} is late.", "delivery") for i in range(8)] + [
    (f"Charged {i} times.", "billing") for i in range(8)
]


class Said:
    """Exit code and both streams of a command that was run as from a shell."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


Shell = Callable[..., Said]


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], said: Callable[[str, int, str], None], tmp_path: Path) -> Shell:
    """Runs ``pyllmclf`` and notes what it said last."""

    def call(case: str, *arguments: object, evaluates: bool = False) -> Said:
        capfd.readouterr()
        command, name = (eval_app, "pyllmclf-eval") if evaluates else (app, "pyllmclf")
        found = Said(run(command, name, [str(a) for a in arguments]), *capfd.readouterr())
        sentence = (found.err.strip().splitlines() or ["done"])[-1]
        said(case, found.code, sentence.replace(f"{tmp_path}/", ""))
        return found

    return call


def refused(found: Said, code: int, pattern: str) -> None:
    """That exit code, and one sentence that says ``pattern``; nothing on standard output."""
    assert found.code == code, found.err
    assert found.out == ""
    last = found.err.strip().splitlines()[-1]
    assert re.search(pattern, last), last
    assert last.endswith(".")
    assert "Traceback" not in found.err
    assert "this is a bug" not in found.err


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that name no output folder write below the current one."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *ROWS])
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that predicts, not to be changed."""
    path = tmp_path_factory.mktemp("saved") / "classifier"
    texts, labels = map(list, zip(*ROWS, strict=True))
    arguments: dict[str, Any] = {"weights": "random", "trainable": "all", "epochs": 2, "progress": False}
    pyllmclf.finetune("gpt2-nano", (texts, labels), **arguments).classifier.save(path)
    return path


@pytest.fixture
def classifier(saved: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "classifier"))


def rehash(folder: Path) -> None:
    """Makes the manifest agree with the files, as whoever writes hostile ones would."""
    names = json.loads((folder / "manifest.json").read_text())["files"]
    files = {name: (folder / name).read_bytes() for name in names}
    listed = {name: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for name, c in files.items()}
    (folder / "manifest.json").write_text(json.dumps({"pyllmclf_manifest": 1, "files": listed}))


# --- saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.real_disk
def test_disk_that_is_full(shell: Shell, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_folder, "_sync", full)
    found = shell("disk full", *NANO, "--train", table, "--output-dir", tmp_path / "run")
    refused(found, 5, r"checkpoint-2 can't be written \(.*No space left on device")
    assert not list((tmp_path / "run").glob("*checkpoint*"))


@pytest.mark.real_disk
def test_too_little_space(shell: Shell, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    found = shell("too little space", *NANO, "--train", table, "--output-dir", tmp_path / "run", "--cache", "off")
    refused(found, 5, r"it takes \d+ MB, and 0 MB are free")


def test_read_only_folder(shell: Shell, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "touch", read_only)
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("trains"))
    found = shell("read-only folder", *NANO, "--train", table, "--output-dir", tmp_path / "run")
    refused(found, 5, r"output_dir .*run can't be written \(.*Read-only file system")


# --- checkpoints and models -------------------------------------------------------------------------------------------


def test_truncated_weights(shell: Shell, classifier: Path, table: Path) -> None:
    path = classifier / "model.safetensors"
    write(path, path.read_bytes()[:-1])
    refused(shell("truncated safetensors", classifier, table, evaluates=True), 4, r"model\.safetensors: damaged")


def test_flipped_byte(shell: Shell, classifier: Path, table: Path) -> None:
    path = classifier / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    write(path, bytes(content))
    refused(shell("a flipped byte", classifier, table, evaluates=True), 4, r"model\.safetensors: damaged")


def entry(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("name", "header", "length"),
    [
        ("huge", {"a": entry([1 << 40], 0, 1 << 42)}, None),
        ("overlapping", {"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, None),
        ("overflowing", {"a": entry([1 << 33, 1 << 33], 0, 12)}, None),
        ("negative", {"a": entry([3], 12, 0)}, None),
        ("header of 8 EiB", {}, (1 << 63) - 1),
    ],
)
def test_hostile_header(
    shell: Shell, classifier: Path, table: Path, name: str, header: dict[str, Any], length: int | None
) -> None:
    content = json.dumps(header).encode()
    write(classifier / "model.safetensors", (length or len(content)).to_bytes(8, "little") + content + b"\0" * 12)
    rehash(classifier)
    found = shell(f"hostile header: {name}", classifier, table, evaluates=True)
    refused(found, 4, r"model\.safetensors: damaged or unreadable")


def test_pickled_weights(model_folder: Folders, shell: Shell, table: Path, tmp_path: Path) -> None:
    folder = model_folder.copy(tmp_path / "model", "gpt2")
    (folder / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    write(folder / "pytorch_model.bin", pickle.dumps(Trap()))
    found = shell("a pickle file", "finetune", "--model", folder, "--train", table, "--no-progress")
    refused(found, 4, "pickle file, which is never opened")
    assert not (tmp_path / "opened").exists()


def test_tokenizer_that_does_not_fit(model_folder: Folders, shell: Shell, table: Path, tmp_path: Path) -> None:
    folder = model_folder.copy(tmp_path / "model", "bert")
    with (folder / "vocab.txt").open("a") as file:
        file.writelines(f"more{i}\n" for i in range(500))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    found = shell("tokenizer larger than the embedding", "finetune", "--model", folder, "--train", table)
    refused(found, 4, "tokenizer has .*embedding")


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("a missing tensor", lambda t: t.pop(next(n for n in t if n.endswith("ln_1.weight")))),
        ("an extra tensor", lambda t: t.update(extra=torch.zeros(3))),
        ("a lost head", lambda t: t.pop(next(n for n in t if n.startswith("score")))),
        ("a tensor of another shape", lambda t: t.update({"score.weight": torch.zeros(2, 3)})),
    ],
)
def test_tensors_that_are_not_the_model_s(
    shell: Shell, classifier: Path, table: Path, case: str, change: Callable[[dict[str, Any]], Any]
) -> None:
    path = classifier / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    rehash(classifier)
    refused(shell(case, classifier, table, evaluates=True), 4, r"1 tensors are (missing|unknown), '|has the shape")


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("no interval of full attention", {"global_attn_every_n_layers": 0}),
        ("rotary parameters of another type", {"rope_parameters": [1]}),
        ("rotary parameters of another shape", {"rope_parameters": {"full_attention": "x"}}),
        ("a number that no float is", {"norm_eps": 10**400}),
        ("a vocabulary that no token id reaches", {"vocab_size": 10**12}),
        ("40,000 layers", {"num_hidden_layers": 40_000}),
    ],
)
@pytest.mark.parametrize("command", ["finetune", "predict"])
def test_hostile_configuration(
    model_folder: Folders, shell: Shell, table: Path, tmp_path: Path, command: str, case: str, changes: dict[str, Any]
) -> None:
    folder = model_folder.copy(tmp_path / "model", "modernbert")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    arguments = (
        ("finetune", "--model", folder, "--train", table) if command == "finetune" else ("predict", folder, table)
    )
    refused(shell(f"{case}, {command}", *arguments), 4, r"config\.json: ")


def test_model_of_many_layers_gets_no_memory(model_folder: Folders, shell: Shell, table: Path, tmp_path: Path) -> None:
    folder = model_folder.copy(tmp_path / "model", "gpt2")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 40_000}))
    begun = peak(lambda: shell("40,000 layers of GPT-2", "predict", folder, table))
    assert begun < 200
    for arguments in (("finetune", "--model", folder, "--train", table), ("predict", folder, table)):
        refused(shell("40,000 layers of GPT-2", *arguments), 4, "parameters are missing; the configuration needs")


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["loss", "step"])
def test_not_finite(model_folder: Folders, shell: Shell, table: Path, tmp_path: Path, what: str) -> None:
    """A model that overflows by itself, and a learning rate that lets it: the last finite checkpoint stays."""
    if what == "loss":
        folder = model_folder.copy(tmp_path / "model", "gpt2")
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors["transformer.ln_f.weight"].fill_(3e38)
        save_file(tensors, path, metadata={"format": "pt"})
        arguments, pattern = ("finetune", "--model", folder, "--no-progress"), r"step 1: .*loss.*texts? [\d, ]+"
    else:
        arguments, pattern = (*NANO, "--learning-rate", "1e38"), r"step \d+: .* is no longer finite"
    more = ("--trainable", "all", "--output-dir", tmp_path / "run", "--save-every-steps", "1")
    refused(shell(f"a {what} that is not finite", *arguments, "--train", table, *more), 6, pattern)
    for path in (tmp_path / "run").glob("checkpoint-*/model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())


@pytest.mark.parametrize("where", ["training", "evaluation", "saving"])
def test_terminated(shell: Shell, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    owner, name = {
        "training": (SequenceClassifier, "forward"),
        "evaluation": (pyllmclf.Classifier, "packed_logits"),
        "saving": (run_folder_module, "save_checkpoint"),
    }[where]
    original, calls = getattr(owner, name), []

    def signalled(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)
    arguments = (*NANO, "--train", table, "--validation", table, "--output-dir", tmp_path / "run", "--cache", "off")
    refused(shell(f"SIGTERM in {where}", *arguments), 75, r"preempted after step \d.*--resume")
    monkeypatch.undo()
    assert shell(f"... and gone on with ({where})", *arguments, "--resume").code == 0


@pytest.mark.parametrize(
    ("case", "changes", "code", "pattern"),
    [
        ("resume with other settings", ("--learning-rate", "2e-3"), 2, "learning_rate was 0.001 there, and is 0.002"),
        ("resume with other data", ("--train", "OTHER"), 3, "train texts or their labels are not those"),
        ("resume with another model", ("--seed", "7"), 2, "seed was 123 there, and is 7"),
        ("a folder that holds another run", None, 2, "already holds a classifier.*--resume"),
    ],
)
def test_another_run(
    shell: Shell, table: Path, tmp_path: Path, case: str, changes: tuple[str, ...] | None, code: int, pattern: str
) -> None:
    arguments = [*NANO, "--train", table, "--output-dir", tmp_path / "run"]
    assert run(app, "pyllmclf", [str(a) for a in arguments]) == 0
    other = write(tmp_path / "other.csv", table.read_bytes() + b"one more,billing\n")
    more = [] if changes is None else [str(other) if a == "OTHER" else a for a in (*changes, "--resume")]
    refused(shell(case, *arguments, *more), code, pattern)


def test_other_count_of_processes(shell: Shell, table: Path, tmp_path: Path) -> None:
    arguments = (*NANO, "--train", table, "--output-dir", tmp_path / "run")
    assert run(app, "pyllmclf", [str(a) for a in arguments]) == 0
    path = tmp_path / "run/last/training_state/state.json"
    state = json.loads(path.read_text())
    state["identity"]["settings"]["processes"] = 2
    path.write_text(json.dumps(state))
    rehash((tmp_path / "run/last").resolve())
    refused(shell("resume with another world size", *arguments, "--resume"), 2, "processes was 2 there, and is 1")


def test_two_runs_in_one_folder(shell: Shell, table: Path, tmp_path: Path) -> None:
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run/.lock"):
        found = shell("two runs in one folder", *NANO, "--train", table, "--output-dir", tmp_path / "run")
    refused(found, 2, "another run is at work there")


@pytest.mark.parametrize("most", [0, 2])
def test_memory_of_the_gpu(shell: Shell, table: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    original = SequenceClassifier.forward

    def forward(self: SequenceClassifier, batch: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and len(batch.cu_seqlens) - 1 > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch, *args, **kwargs)

    monkeypatch.setattr(SequenceClassifier, "forward", forward)
    # All gradients before the update, as on a GPU; else parts of them are used up before memory runs out.
    arguments = (*NANO, "--train", table, "--trainable", "all", "--max-grad-norm", "1")
    found = shell(f"out of memory with more than {most} texts", *arguments)
    if most:
        assert found.code == 0
        assert "from now on 2 are computed at a time" in found.err
    else:
        refused(found, 5, "out of memory")


def test_no_gpu(shell: Shell, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(shell("no GPU", *NANO, "--train", table, "--device", "cuda"), 5, "torch sees no CUDA device")
    assert shell("no GPU, device auto", *NANO, "--train", table).code == 0


def test_no_triton(shell: Shell, table: Path) -> None:
    refused(shell("Triton on a CPU", *NANO, "--train", table, "--backend", "triton"), 2, "triton")


# --- texts ------------------------------------------------------------------------------------------------------------

EMPTY = 'text,label\na b,x\n"",y\n  \t,x\nc,y\nd,x\n'


@pytest.mark.parametrize(("policy", "counted"), [("keep", (5, 0)), ("skip", (3, 2))])
def test_empty_texts(shell: Shell, tmp_path: Path, policy: str, counted: tuple[int, int]) -> None:
    path = write(tmp_path / "empty.csv", EMPTY)
    texts = pyllmclf.finetune(
        "gpt2-nano", path, weights="random", epochs=1, test=path, empty_texts=policy, progress=False
    )
    assert (texts.lengths.texts, texts.lengths.skipped) == counted
    assert texts.metrics["test"]["lengths"]["skipped"] == counted[1]
    assert texts.metrics["test"]["texts"] == counted[0]
    assert shell(f"empty texts: {policy}", *NANO, "--train", path, "--empty-texts", policy).code == 0


def test_empty_texts_refused(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "empty.csv", EMPTY)
    found = shell("empty texts: error", *NANO, "--train", path, "--empty-texts", "error")
    refused(found, 3, r"empty\.csv, line 3: the text is empty or white space \(2 are\)")
    path = write(tmp_path / "all.csv", 'text,label\n"",x\n" ",y\n')
    found = shell("nothing but empty texts", *NANO, "--train", path, "--empty-texts", "skip")
    refused(found, 3, "none is left")
    for name in ("empty_texts", "encoding_errors"):
        with pytest.raises(pyllmclf.UsageError, match=f"{name}='drop' is unknown"):
            pyllmclf.finetune("gpt2-nano", path, **{name: "drop"})
    with pytest.raises(pyllmclf.UsageError, match="encoding_errors is about the bytes of files"):
        pyllmclf.finetune("gpt2-nano", (["a", "b"], ["x", "y"]), encoding_errors="replace")
    frame = (["a", "", "b", "c"], ["x", "x", "y", ["several"]])
    with pytest.raises(pyllmclf.DataError, match="row 3: the label"):
        pyllmclf.finetune("gpt2-nano", frame, weights="random", empty_texts="skip")
    with pytest.raises(pyllmclf.DataError, match="row 1: the text is empty"):
        pyllmclf.finetune("gpt2-nano", (["a", " "], ["x", "y"]), weights="random", empty_texts="error")


def test_evaluation_skips_and_replaces(shell: Shell, saved: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "texts.csv", b"text,label\na \xff b,delivery\n,billing\nc,billing\n")
    options = ("--empty-texts", "skip", "--encoding-errors", "replace", "--json", "--no-progress")
    found = shell("evaluated with both", saved, path, *options, evaluates=True)
    assert found.code == 0
    assert json.loads(found.out)["lengths"]["skipped"] == 1
    assert "1 places are not valid UTF-8" in found.err
    assert pyllmclf.evaluate(saved, path, empty_texts="skip", encoding_errors="replace").lengths["skipped"] == 1
    refused(shell("evaluated strictly", saved, path, evaluates=True), 3, r"line 2: byte 13 \(0xff\)")


def test_nul_and_names_of_special_tokens_are_text(shell: Shell, saved: Path, tmp_path: Path) -> None:
    texts = ["a\0b", "ab", "<|endoftext|>", "[SEP] [PAD] <s>", "\0"]
    lines = write(tmp_path / "hard.txt", "\n".join(texts) + "\n")
    found = shell("NUL and special tokens' names", "predict", saved, lines, "--no-progress", "--json")
    assert found.code == 0
    assert [row["text"] for row in json.loads(found.out)] == texts
    tokens = [pyllmclf.load(saved).state.tokenizer.encode_batch([text])[0] for text in texts]
    assert all(tokens) and len({tuple(ids) for ids in tokens}) == len(texts)
    tokenizer = pyllmclf.load(saved).state.tokenizer
    assert not any(set(ids) & {tokenizer.pad_token_id, *tokenizer.prefix, *tokenizer.suffix} for ids in tokens)


def peak(work: Callable[[], object]) -> int:
    """MiB that a child of this process takes beyond what it begins with."""
    import resource

    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        work()
        with os.fdopen(writable, "w") as file:
            file.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) // 1024))
        os._exit(0)
    os.close(writable)
    with os.fdopen(readable) as file:
        found = file.read()
    os.waitpid(child, 0)
    return int(found)


def test_rows_keep_their_numbers() -> None:
    data = read_object((["a", "", "b", "c"], [1, 1, 2, 3]), text_column=None, label_column=None, empty_texts="skip")
    assert [data.where(row) for row in range(3)] == [f"(texts, labels), row {row}" for row in (0, 2, 3)]
    assert data.select([2]).where(0) == "(texts, labels), row 3"


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere")
def test_long_texts(saved: Path, tmp_path: Path, said: Any) -> None:
    """A text of 4 MB, and a field of 80 MB, take memory in proportion to their bytes."""
    path = write(tmp_path / "field.csv", b'text,label\nshort,x\n"' + b"lorem ipsum " * 6_666_667 + b'",y\n')
    taken = peak(lambda: read_file(path))
    assert taken < 1000
    said("a field of 80 MB", 0, f"read in {taken:,} MiB")
    classifier, text = pyllmclf.load(saved), "word " * 800_000
    taken = peak(lambda: classifier.predict([text]))
    assert taken < 1000
    said("a text of 4 MB", 0, f"classified in {taken:,} MiB")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "content", "pattern"),
    [
        ("invalid UTF-8", b"text,label\na,x\nb\xff,y\n", r"line 3: byte 16 \(0xff\) is not valid UTF-8"),
        ("unclosed quote", b'text,label\na,x\n"b,y\n', "line 3: the quoting of the row that begins here is broken"),
        ("wrong width", b"text,label\na,x\nb,y,z\n", "line 3: 3 fields where the header has 2"),
        ("duplicate column", b"text,text,label\na,b,x\n", "'text' appears more than once"),
        ("missing column", b"words,label\na,x\n", "no column is named like a text"),
        ("ambiguous column", b"text,sentence,label\na,b,x\n", "several columns could be the text"),
        ("a single class", b"text,label\na,x\nb,x\n", "x"),
    ],
)
def test_file(shell: Shell, tmp_path: Path, case: str, content: bytes, pattern: str) -> None:
    refused(shell(case, *NANO, "--train", write(tmp_path / "bad.csv", content)), 3, pattern)


def test_label_that_is_no_unicode(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "label.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "\\ud800"}\n')
    pattern = r"label\.jsonl, line 2: the label holds a lone surrogate"
    refused(shell("a label that is no Unicode", *NANO, "--train", path), 3, pattern)
    found = shell("... validated", "validate", path)
    assert found.code == 3 and re.search(pattern, found.err) and "finetune would refuse" in found.out


def test_name_that_is_no_unicode(shell: Shell, saved: Path, tmp_path: Path) -> None:
    """Of the data and of the report."""
    name = os.fsdecode(b"texts-\xff.csv")
    path = write(tmp_path / name, "text,label\na,delivery\nb,billing\n")
    page = tmp_path / os.fsdecode(b"report-\xff.html")
    assert shell("names that are no UTF-8", saved, path, "--report", page, "--json", evaluates=True).code == 0
    assert "texts-\ufffd.csv" in page.read_text(encoding="utf-8")


def test_byte_order_mark_line_ends_and_quoted_newlines(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "fine.csv", b'\xef\xbb\xbftext,label\r\n"a\r\nb",x\r\nc,y\r\n')
    assert read_file(path).texts == ["a\r\nb", "c"]
    assert shell("BOM, CRLF, quoted newlines", *NANO, "--train", path).code == 0


def test_class_of_one_member(shell: Shell, tmp_path: Path) -> None:
    path = write(tmp_path / "one.csv", "text,label\na,x\nb,x\nc,x\nd,y\n")
    found = shell("a one-member class, split", *NANO, "--train", path, "--validation", "0.5")
    assert found.code == 0 and "no validation text has the class 'y' (1 text)" in found.err
    assert shell("a one-member class, not split", *NANO, "--train", path).code == 0


def test_label_unseen_in_training(shell: Shell, saved: Path, table: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "unseen.csv", "text,label\na,delivery\nb,refund\n")
    refused(shell("a label unseen in training", saved, path, evaluates=True), 3, "unseen.csv, line 3.*'refund'")
    found = shell("... in the test part", *NANO, "--train", table, "--test", path)
    refused(found, 3, "unseen.csv, line 3.*'refund'")


# --- environment and output -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "many"), ("WORLD_SIZE", "-1"), ("PYLLMCLF_BACKEND", "quick")]
)
def test_environment(shell: Shell, table: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    refused(shell(f"{name}={value}", *NANO, "--train", table), 2, name)


def test_time_limit_of_the_environment(shell: Shell, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    for value in ("abc", "0", "nan", "1e99"):
        monkeypatch.setenv("PYLLMCLF_DISTRIBUTED_TIMEOUT", value)
        refused(shell(f"a time limit of {value}", *NANO, "--train", table), 2, "PYLLMCLF_DISTRIBUTED_TIMEOUT")


@pytest.mark.parametrize(
    ("case", "redirected", "code", "said_last"),
    [
        ("a reader that has seen enough", "| head -n 1", 0, ""),
        ("no space for the output", "> /dev/full", 5, "the output can't be written"),
        ("closed output", ">&-", 0, ""),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_output_that_can_not_be_written(
    saved: Path,
    tmp_path: Path,
    said: Callable[[str, int, str], None],
    case: str,
    redirected: str,
    code: int,
    said_last: str,
) -> None:
    lines = write(tmp_path / "lines.txt", "a text\n" * 3000)
    program = f'"{sys.executable}" -m pyllmclf predict "{saved}" "{lines}" --no-progress'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} {redirected}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,  # not the repository's root, whose source tree has no extension
    )
    assert done.returncode == code, done.stderr
    last = (done.stderr.strip().splitlines() or [""])[-1]
    assert said_last in last and "bug" not in done.stderr and "Exception ignored" not in done.stderr
    said(case, code, last or "done")


def test_lines_have_no_columns(shell: Shell, saved: Path, tmp_path: Path) -> None:
    lines = write(tmp_path / "lines.txt", "a\n")
    refused(shell("a column of lines", "predict", saved, lines, "--text-column", "text"), 2, "--text-column")


# --- what is written --------------------------------------------------------------------------------------------------


def test_hostile_text_in_what_is_written(shell: Shell, saved: Path, tmp_path: Path) -> None:
    texts = [
        "=HYPERLINK(1)",
        "+1",
        "-1",
        "@x",
        "\tx",
        "<script>alert(1)</script>",
        'quoted "x", y\nz',
        "a\rb",
        "a\r",
        "plain",
    ]
    path, predictions, page = tmp_path / "hostile.csv", tmp_path / "predictions.csv", tmp_path / "report.html"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((text, "billing") for text in texts)])
    options = ("--predictions", predictions, "--report", page, "--no-progress")
    for escapes in (False, True):
        more = ("--escape-formulas",) if escapes else ()
        assert shell(f"hostile texts, escaped: {escapes}", saved, path, *options, *more, evaluates=True).code == 0
        with predictions.open(newline="") as file:
            written = [row["text"] for row in csv.DictReader(file)]
        assert written == [f"'{text}" if escapes and text[0] in "=+-@\t" else text for text in texts]
    assert "<script>alert" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()
    found = shell("--escape-formulas without a file", saved, path, "--escape-formulas", evaluates=True)
    refused(found, 2, "--escape-formulas")


def test_files_stay_as_they_were_if_the_work_fails(
    shell: Shell, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "one.csv", "text,label\na,delivery\n")
    kept = [write(tmp_path / name, "older") for name in ("predictions.csv", "report.html")]

    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(pyllmclf.Classifier, "evaluate_texts", fails)
    options = ("--predictions", kept[0], "--report", kept[1])
    refused(shell("evaluation fails", saved, path, *options, evaluates=True), 5, "out of memory")
    assert [file.read_text() for file in kept] == ["older", "older"]
    assert not list(tmp_path.glob(".*"))
    for option, target in (("--predictions", tmp_path), ("--report", tmp_path), ("--report", tmp_path / "no/such/a")):
        found = shell(f"{option} where nothing can be written", saved, path, option, target, evaluates=True)
        refused(found, 5, "can't be written")


def test_written_through_a_link(shell: Shell, saved: Path, tmp_path: Path) -> None:
    path, target = write(tmp_path / "one.csv", "text,label\na,delivery\n"), write(tmp_path / "target.csv", "older")
    target.chmod(0o640)
    (tmp_path / "link.csv").symlink_to(target)
    assert shell("through a link", saved, path, "--predictions", tmp_path / "link.csv", evaluates=True).code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert target.read_text().startswith("text,label,prediction")
    assert target.stat().st_mode & 0o777 == 0o640


def test_output_stays_in_its_folder(shell: Shell, classifier: Path, table: Path) -> None:
    """A manifest that names files elsewhere: nothing there is read, and nothing replaced or removed."""
    content = json.loads((classifier / "manifest.json").read_text())
    content["files"]["../outside"] = {"sha256": "0" * 64, "bytes": 0}
    (classifier / "manifest.json").write_text(json.dumps(content))
    refused(shell("a manifest that leaves its folder", classifier, table, evaluates=True), 4, "outside the folder")
