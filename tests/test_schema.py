"""``pyllmclf.json`` and ``state.json`` with wrong fields: each is refused in a sentence that names the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from models import TEXTS, Folders

import pyllmclf
from pyllmclf import ModelError, PyllmclfError
from pyllmclf.classifier.checkpoint import SPEC_FILE, STATE_FILE
from pyllmclf.classifier.schema import CheckpointSpec, read_spec
from pyllmclf.cli.main import app, run
from pyllmclf.data.atomic_folder import MANIFEST
from pyllmclf.data.fetch import sha256

LABELS = [("a", "b", "c")[i % 3] for i in range(len(TEXTS))]
SHORT: dict[str, Any] = {"epochs": 1, "batch_size": 3, "progress": False}
VALUES = [
    None, True, 0, 1, -1, 2**63, 10**400, 1.5, float("nan"), float("inf"), "", " ", "x", "\ud800", [], ["a"],
    ["a", "a"], [1, "1"], ["a", None], ["a", 1.5], ["a", ["b"]], [["a"], ["b"]], ["a", "\ud800"], {}, {"a": 1},
    {"": None}, {"test": {}}, {"test": {"texts": "many"}}, {"train": 5, "epochs": "many", "dropout": []}, {"rank": "x"},
    {"rank": 10**30}, {"rank": 2, "alpha": 10**400}, {"rank": 2, "unknown": 1},
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(model_folder: Folders, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for name, changes in (("plain", {}), ("lora", {"trainable": "lora", "lora": {"rank": 2}})):
        folders[name] = tmp_path_factory.mktemp("saved") / name
        pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), **SHORT, **changes).classifier.save(folders[name])
    return folders


def rehash(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"sha256": sha256(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def forged(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field replaced by every value, and left out, nested ones too."""
    for name, value in spec.items():
        for other in VALUES:
            yield name, spec | {name: other}
        yield name, {key: entry for key, entry in spec.items() if key != name}
        if name in ("tokenizer", "base", "lora") and isinstance(value, dict):
            for inner, changed in forged(value):
                yield f"{name}.{inner}", spec | {name: changed}


@pytest.mark.parametrize("kind", ["plain", "lora"])
def test_every_field_is_read_or_refused_by_name(saved: dict[str, Path], kind: str) -> None:
    file = saved[kind] / SPEC_FILE
    spec = json.loads(file.read_text())
    assert read_spec(spec, file).to_json() == spec
    assert {field.name for field in fields(CheckpointSpec)} == spec.keys()
    refused = 0
    for name, content in forged(spec):
        parsed = json.loads(json.dumps(content))
        try:
            read_spec(parsed, file)
        except ModelError as error:
            refused += 1
            first, _, rest = name.partition(".")
            assert str(error).startswith(f"{file}: "), error
            assert "\n" not in str(error)
            assert first in str(error) or first == "format_version", (name, str(error))
            assert "\ud800" not in str(error)
            assert not rest or first == "lora" or rest in str(error), (name, str(error))
    assert refused > 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_separator", ""),
        ("label_separator", 5),
        ("temperature", "x"),
        ("temperature", 0),
        ("temperature", float("nan")),
        ("metrics", {"test": {"accuracy": "x"}}),
        ("metrics", []),
        ("settings", ["a"]),
        ("settings", {"epochs": "five"}),
        ("settings", {"train": {"a": 1}, "lora": 7}),
        ("classes", ["a", "b", "b"]),
        ("classes", []),
        ("classes", [1, "1", "c"]),
        ("classes", [1, "b", "c"]),
        ("classes", [True, 2, 3]),
        ("classes", ["", "b", "c"]),
        ("classes", ["a", "b", "\ud800"]),
        ("classes", ["a", "b", None]),
        ("max_length", -1),
        ("max_length", 2**40),
        ("max_length", 47.5),
        ("pad_to", -1),
        ("pad_to", "x"),
        ("pooling", "median"),
        ("pooling", 5),
        ("causal", "yes"),
        ("head_bias", 1),
        ("long_texts", "middle"),
        ("lora", {"rank": 0}),
        ("lora", {"rank": 2, "target_modules": [1]}),
        ("base", {"hub_id": 5, "revision": None, "sha256": None}),
        ("base", {}),
        ("tokenizer", {"kind": "sentencepiece", "pad_token": None}),
        ("tokenizer", {"kind": "tokenizers", "pad_token": "[PAD]", "split_special_tokens": "yes"}),
        ("tokenizer", {"kind": "tokenizers", "pad_token": "[PAD]", "prompt": 3}),
        ("tokenizer", {"kind": "tokenizers", "pad_token": "[PAD]", "prompt": "a"}),
        ("tokenizer", {"kind": "tokenizers", "pad_token": "[PAD]", "prompt": "a, " * 30}),
        ("format_version", True),
        ("format_version", 6),
    ],
)
def test_forged_field_ends_with_exit_code_4(
    saved: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, value: Any
) -> None:
    folder = Path(shutil.copytree(saved["lora" if name == "lora" else "plain"], tmp_path / "forged"))
    spec = json.loads((folder / SPEC_FILE).read_text())
    (folder / SPEC_FILE).write_text(json.dumps(spec | {name: value}))
    rehash(folder)
    data = tmp_path / "data.csv"
    data.write_text("text,label\none,a\ntwo,b\n")
    for arguments in (["predict", str(folder), str(data), "--no-progress"], ["eval", str(folder), str(data)]):
        assert run(app, "pyllmclf", arguments) == 4
        error = capfd.readouterr().err.strip()
        assert error.count("\n") == 0
        assert name.replace("_", " ") in error.replace("_", " ")


def test_unknown_fields_are_accepted(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved["plain"], tmp_path / "later"))
    spec = json.loads((folder / SPEC_FILE).read_text())
    spec |= {"later": {"a": 1}, "settings": spec["settings"] | {"later": [1]}}
    spec["tokenizer"]["later"] = spec["base"]["later"] = 5
    (folder / SPEC_FILE).write_text(json.dumps(spec))
    rehash(folder)
    assert pyllmclf.load(folder).classes_ == ["a", "b", "c"]


STATE_VALUES = ["x", None, [5], -1, {}, 10**400, True, 1.5, float("nan"), [], [{"a": 1}], {"a": []}]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one_value", "all_values"])
def test_resuming_from_a_wrong_state_ends_in_a_sentence(model_folder: Folders, tmp_path: Path, every: bool) -> None:
    options: dict[str, Any] = SHORT | {"weights": "random"}
    pyllmclf.finetune(model_folder("bert"), (TEXTS, LABELS), output_dir=tmp_path / "out", **options)
    checkpoint = (tmp_path / "out/last").resolve()
    state = json.loads((checkpoint / STATE_FILE).read_text())
    for i, name in enumerate(state):
        for value in STATE_VALUES if every else [STATE_VALUES[i % 4]]:
            shutil.rmtree(tmp_path / "again", ignore_errors=True)
            shutil.copytree(tmp_path / "out", tmp_path / "again", symlinks=True)
            folder = tmp_path / "again" / checkpoint.name
            (folder / STATE_FILE).write_text(json.dumps(state | {name: value}))
            rehash(folder)
            try:
                pyllmclf.finetune(
                    model_folder("bert"), (TEXTS, LABELS), output_dir=tmp_path / "again", resume=True, **options
                )
            except PyllmclfError as error:
                assert error.exit_code in (2, 3, 4), (name, value, error)
