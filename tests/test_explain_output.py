"""Explanations as pages, lines and tables, in Python and on the command line."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from models import Folders
from rich.console import Console

import pyllmclf
from pyllmclf.cli.main import app, run
from pyllmclf.explain import HIGHLIGHT_CSS, Explanation, Explanations, Weight, highlight
from pyllmclf.printable import printable
from pyllmclf.text_pair import TextPair

NASTY = "<script>alert('x')</script> & \"fun\" =1+1 \x1b[31m"


def made(text: Any, *weights: tuple[int, int, float | None, int], **changes: Any) -> Explanation:
    """An explanation with these words: start, end, weight, part."""
    parts = (text,) if isinstance(text, str) else tuple(text)
    words = tuple(Weight(parts[part][a:b], a, b, weight, part) for a, b, weight, part in weights)
    values = {"target": "spam", "predicted": "ham", "probability": 0.25, "logit": 1.0, "baseline_logit": -0.5}
    return Explanation(
        text=text, words=words, method="integrated_gradients", baseline="pad", steps=8, **values | changes
    )


ONE = made(
    "Free entry, now or never",
    (0, 4, 1.0, 0),
    (5, 10, -0.5, 0),
    (10, 11, 0.01, 0),
    (16, 18, None, 0),
    (19, 24, None, 0),
)


class Outline(HTMLParser):
    """Tags of a page, its text, and each marked text with its class."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_highlighting() -> None:
    assert highlight(ONE) == (
        '<span class="why"><mark class="for-5" title="+1.000">Free</mark> '
        '<mark class="against-2" title="-0.500">entry</mark>, now <span class="unread" title="not read">or never</span>'
        "</span>"
    )
    assert all(f".{sign}-{shade}{{" in HIGHLIGHT_CSS for sign in ("for", "against") for shade in range(1, 6))


def test_all_characters_stay_in_the_highlighted_text() -> None:
    for each in (ONE, made(NASTY, (1, 7, 0.5, 0), (8, 13, None, 0)), made("no words")):
        assert Outline(str(highlight(each))).text == printable(each.text)
    pair = made(TextPair("a b", "c"), (0, 1, 1.0, 0), (0, 1, -1.0, 1))
    assert Outline(str(highlight(pair))).text == "a b c"
    assert highlight(pair).count('<span class="why">') == 2


def test_pages_hold_nothing_that_runs() -> None:
    explanations = Explanations([made(NASTY, (1, 7, 0.5, 0), target="<b>", predicted="&"), ONE], index=["<i>", 7])
    page = explanations.to_html()
    outline = Outline(page)
    assert not {"script", "b", "i", "img", "link"} & set(outline.tags)
    assert not [name for name, _ in outline.attributes if name.startswith("on") or name in ("style", "src", "href")]
    assert printable(NASTY) in outline.text and "Text <i>" in outline.text
    assert page.startswith("<!doctype html>") and "color-scheme:light dark" in page
    cell = ONE._repr_html_()
    assert "<html" not in cell and "<mark" in cell
    assert "Words in italics were not read" in ONE.to_html()


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "why.jsonl"
    Explanations([ONE, made("日本", (0, 2, 0.5, 0))]).to_jsonl(path)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == [ONE.text, "日本"]
    assert rows[0] == ONE.to_dict()
    assert rows[0]["words"][3] == {"word": "or", "start": 16, "end": 18, "weight": None}
    assert rows[0]["completeness_error"] == pytest.approx(abs(0.51 - 1.5))
    assert made(TextPair("a", "b"), (0, 1, 1.0, 1)).to_dict()["words"][0]["part"] == 1


@pytest.mark.parametrize("colours", [True, False])
def test_in_a_terminal(colours: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=colours, color_system="truecolor" if colours else None, width=200)
    console.print(made(NASTY, (1, 7, 0.5, 0)), ONE, Explanations([ONE]))
    printed = file.getvalue()
    assert ("\x1b[30;48;2;" in printed) is colours
    assert "\x1b[31m" not in printed and "\\x1b[31m" in printed
    assert "Free +1.00, entry -0.50" in printed and "not all of the text was read" in printed
    assert str(ONE).splitlines()[1] == ONE.text


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(model_folder: Folders) -> Path:
    return model_folder("bert")


def explained(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capfd.readouterr()
    code = run(app, "pyllmclf", ["explain", *map(str, arguments)])
    return (code, *capfd.readouterr())


def test_command(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = tmp_path / "texts.csv"
    texts.write_text("text,n\nfun dog,1\n=1+1 lazy,2\nfox,3\n", encoding="utf-8")
    expected = pyllmclf.load(folder, dtype="float32").explain(["fun dog", "=1+1 lazy"], "LABEL_1", steps=4)
    shared = (folder, texts, "--target", "LABEL_1", "--steps", 4, "--limit", 2, "--no-progress")

    code, out, err = explained(capfd, *shared)
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["text"] for row in rows] == ["fun dog", "=1+1 lazy"]
    for row, each in zip(rows, expected, strict=True):
        assert row["target"] == "LABEL_1" and row["steps"] == 4
        assert [word["weight"] for word in row["words"]] == pytest.approx([word.weight for word in each.words])
    assert json.loads(explained(capfd, *shared, "--json")[1]) == rows

    table = tmp_path / "why.csv"
    assert explained(capfd, *shared, "--output", table, "--escape-formulas")[0] == 0
    cells = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [cell["text_index"] for cell in cells] == ["0"] * 2 + ["1"] * len(expected[1].words)
    assert [cell["word"] for cell in cells[:3]] == ["fun", "dog", "'="]
    page = tmp_path / "why.html"
    assert explained(capfd, *shared, "--output", page)[0] == 0
    assert len(re.findall("<section", page.read_text(encoding="utf-8"))) == 2
    occluded = ("--method", "occlusion", "--baseline", "unk", "--limit", 2, "--no-progress")
    code, out, _ = explained(capfd, folder, texts, "--target", "LABEL_1", "--format", "terminal", *occluded)
    assert code == 0 and "\x1b" not in out and out.count("LABEL_1 (probability") == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--target", "nope"], 2, "target='nope' is no class"),
        (["--method", "shap"], 2, "method='shap' is unknown"),
        (["--steps", "0"], 2, "steps=0 must be"),
        (["--limit", "0"], 2, "--limit: 0 is not a positive number"),
        (["--format", "parquet"], 2, "--format: 'parquet' is unknown"),
        (["--output", "why.txt"], 2, "can't tell the format"),
        (["--json", "--format", "csv"], 2, "leave one out"),
        (["--escape-formulas"], 2, "say --format csv"),
        (["--output", "texts.jsonl"], 2, "would be written over the data"),
        (["--text-column", "body"], 3, "body"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_commands(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    """One sentence; nothing is written, and what there was stays."""
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text('{"text": "fun"}\n', encoding="utf-8")
    found, out, err = explained(capfd, folder, "texts.jsonl", *arguments)
    assert (found, out) == (code, "")
    assert said in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_an_output_stays_where_the_data_fail(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data, output = tmp_path / "texts.jsonl", tmp_path / "why.jsonl"
    data.write_text('{"text": "fun"}\n{"text": 3}\n', encoding="utf-8")
    output.write_text("before", encoding="utf-8")
    code, _, err = explained(capfd, folder, data, "--output", output)
    assert code == 3 and "line 2" in err
    assert output.read_text(encoding="utf-8") == "before"


def test_pairs_on_the_command_line(model_folder: Folders, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = ["fun dog", "fox"] * 4
    pyllmclf.finetune(
        model_folder("bert"), (texts, texts, [0, 1] * 4), validation=False, epochs=1, progress=False
    ).classifier.save(tmp_path / "pairs")
    code, out, _ = explained(capfd, tmp_path / "pairs", "--text", "fun", "--text-pair", "fox", "--no-progress")
    row = json.loads(out)
    assert code == 0 and row["text_pair"] == "fox"
    assert [(word["word"], word["part"]) for word in row["words"]] == [("fun", 0), ("fox", 1)]
