"""The page of a server, without a browser: HTML, form, static files, and files that are classified."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from models import gpt2_folder
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from workbooks import ods, xlsx

import pyllmclf
from pyllmclf.server import app
from pyllmclf.server.errors import RequestError
from pyllmclf.server.page import files, uploads
from pyllmclf.server.page.tally import Tally
from pyllmclf.server.service import Service

TEXTS = ["The parcel is late.", "Charged twice!", "I can't log in.", "مرحبا <b>x</b>", "包裹 📦", "=1+1"]
LABELS = ["delivery", "billing", "account", "product", "delivery", "billing"]
XSS = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`"
SELF = {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"}


@pytest.fixture(scope="module")
def classifier() -> pyllmclf.Classifier:
    options: dict[str, Any] = {"weights": "random", "pooling": "mean", "epochs": 1, "progress": False}
    return pyllmclf.finetune("gpt2-nano", "sample", trainable="all", **options).classifier


@pytest.fixture(scope="module")
def several(classifier: pyllmclf.Classifier) -> pyllmclf.Classifier:
    """A classifier of texts that may have several labels, or none."""
    data = TEXTS * 4, [["a", "b"], ["a"], [], ["b", "c"], ["c"], ["a", "c"]] * 4
    options: dict[str, Any] = {
        "weights": "random",
        "pooling": "mean",
        "epochs": 1,
        "progress": False,
    }
    return pyllmclf.finetune("gpt2-nano", data, trainable="all", multi_label=True, **options).classifier


@pytest.fixture(scope="module")
def client(classifier: pyllmclf.Classifier, several: pyllmclf.Classifier) -> Iterator[TestClient]:
    with TestClient(app({"one": classifier, "several": several}, access_log=False)) as client:
        yield client


def client_of(classifier: pyllmclf.Classifier, **options: Any) -> TestClient:
    return TestClient(app({"one": classifier}, access_log=False, **options))


def table(columns: dict[str, list[Any]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue().encode()


def send_file(client: TestClient, content: bytes, name: str, **query: str) -> list[dict[str, Any]]:
    answer = client.post("/files", params={"name": name} | query, content=content)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["cache-control"] == "no-store"
    return [json.loads(line) for line in answer.text.splitlines()]


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert set(policy) > SELF and {"base-uri 'none'", "frame-ancestors 'none'", "form-action 'self'"} < set(policy)
    assert "unsafe" not in "".join(policy)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    html = answer.text
    assert '<html lang="en">' in html and ">one</option>" in html and ">several</option>" in html
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", html)
    assert re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL) == [""]
    # Relative, so that the page may lie below any path.
    assert all(not link.startswith("/") for link in re.findall(r'(?:src|href|action)="([^"]*)"', html))


def test_every_field_has_a_name(client: TestClient) -> None:
    """A label, or an attribute that screen readers say."""
    html = client.get("/").text
    labelled = set(re.findall(r'<label for="([^"]+)"', html))
    for field in re.findall(r"<(?:input|select|textarea|progress)\b[^>]*>", html):
        identity = re.search(r'id="([^"]+)"', field)
        assert identity is not None
        inside = re.search(rf'<label[^>]*>[^<]*<(?:input|select)[^>]*id="{identity[1]}"', html)
        assert identity[1] in labelled or "aria-label=" in field or inside, field


def test_script_and_style_sheet(client: TestClient) -> None:
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind)
        tag = answer.headers["etag"]
        same = client.get(f"/static/{name}", headers={"If-None-Match": tag})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3)", answer.text
        )


def test_without_a_page(classifier: pyllmclf.Classifier) -> None:
    client = client_of(classifier, page=False)
    for method, path in (("GET", "/"), ("POST", "/"), ("GET", "/static/page.css"), ("POST", "/files?name=a.csv")):
        assert client.request(method, path).status_code == 404
    assert client.get("/v1/models").status_code == 200


def test_the_form_without_the_script(client: TestClient, classifier: pyllmclf.Classifier) -> None:
    answer = client.post("/", data={"model": "one", "text": TEXTS[0]})
    assert answer.status_code == 200 and "content-security-policy" in answer.headers
    assert f'<bdi class="label">{classifier.predict(TEXTS[0])}</bdi>' in answer.text
    probabilities = sorted(classifier.predict_proba(TEXTS[0]), reverse=True)
    shown = re.findall(r'<span class="percent">(.*?) %</span>', answer.text)
    assert shown == [f"{100 * p:.1f}" for p in probabilities]
    assert not re.search(r"\sstyle=", answer.text)


def test_texts_of_the_form_are_escaped(client: TestClient) -> None:
    answer = client.post("/", data={"model": "several", "text": XSS + "\x1b\u202e"})
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text and "<img" not in answer.text
    assert "&lt;script&gt;alert(1)" in answer.text and "\x1b" not in answer.text and r"\u202e" in answer.text
    wrong = client.post("/", data={"model": XSS, "text": "a"})
    assert wrong.status_code == 404 and "<img" not in wrong.text and "there is no model" in wrong.text


def test_the_form_explains_a_text(client: TestClient, classifier: pyllmclf.Classifier) -> None:
    answer = client.post("/", data={"model": "one", "text": TEXTS[0], "explain": "yes"})
    assert answer.status_code == 200 and "<mark" in answer.text and not re.search(r"\sstyle=", answer.text)
    strongest = classifier.explain(TEXTS[0], steps=8).strongest(1)[0]
    assert f"<bdi>{strongest.text}</bdi> {strongest.weight:+.2f}" in answer.text
    nasty = client.post("/", data={"model": "several", "text": XSS + "\x1b\u202e", "explain": "yes"})
    assert nasty.status_code == 200 and "<script>alert" not in nasty.text and "<img" not in nasty.text
    assert "\x1b" not in nasty.text and r"\u202e" in nasty.text
    long = client.post("/", data={"model": "one", "text": "a " * 2001, "explain": "yes"})
    assert long.status_code == 413 and "is not explained here" in long.text
    styles = client.get("/static/page.css").text
    assert all(f".{sign}-{shade} " in styles for sign in ("for", "against") for shade in range(1, 6))


def test_one_text_is_explained_at_a_time(classifier: pyllmclf.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile, texts are classified."""
    started, finish = threading.Event(), threading.Event()

    def slow(text: str, **options: Any) -> Any:
        started.set()
        assert finish.wait(30)
        return explain(text, **options)

    explain = classifier.explain
    monkeypatch.setattr(classifier, "explain", slow)
    with client_of(classifier) as client, ThreadPoolExecutor(1) as threads:
        form = {"model": "one", "text": "a", "explain": "yes"}
        first = threads.submit(client.post, "/", data=form)
        assert started.wait(30)
        refused = client.post("/", data=form)
        assert refused.status_code == 429 and "another text is being explained" in refused.text
        assert client.post("/", data={"model": "one", "text": "a"}).status_code == 200
        finish.set()
        assert first.result(30).status_code == 200
        monkeypatch.undo()
        assert client.post("/", data=form).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"", 422, "there is no text"),
        (b"model=one&text=%20%0d%0a", 422, "there is no text"),
        (b"model=none&text=a", 404, "there is no model"),
        (b"text=%ff", 400, "not that of the page"),
        (b"\xff\xfe", 400, "not that of the page"),
        (b"&".join(b"a%d=1" % i for i in range(100)), 400, "not that of the page"),
        (b"text=" + b"a" * 2000, 413, "more than 1,000 bytes"),
    ],
)
def test_forms_that_cannot_be_answered(
    classifier: pyllmclf.Classifier, content: bytes, status: int, sentence: str
) -> None:
    """The page says why, in one sentence."""
    client = client_of(classifier, max_body_bytes=1000)
    answer = client.post("/", content=content, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == status and answer.headers["content-type"].startswith("text/html")
    (error,) = re.findall(r'id="error" role="alert">(.*?)</p>', answer.text)
    assert sentence in error and error.endswith(".")


def test_with_a_key(classifier: pyllmclf.Classifier) -> None:
    """The page is open, names no classifier and computes nothing without the key."""
    client = client_of(classifier, api_key="secret")
    page = client.get("/")
    assert page.status_code == 200 and '<option value="one"' not in page.text and 'data-needs-key="yes"' in page.text
    assert "secret" not in page.text
    assert client.get("/static/page.js").status_code == 200
    form = client.post("/", data={"model": "one", "text": "a"})
    assert form.status_code == 403 and "only with its script" in form.text and 'class="label"' not in form.text
    assert client.post("/files?name=a.txt", content=b"a").status_code == 401
    client.headers["Authorization"] = "Bearer secret"
    assert client.post("/files?name=a.txt", content=b"a").status_code == 200
    assert client.get("/v1/models").status_code == 200


def test_below_another_path(classifier: pyllmclf.Classifier) -> None:
    for key in (None, "secret"):
        inner = app({"one": classifier}, access_log=False, api_key=key)
        client = TestClient(Starlette(routes=[Mount("/below", inner)]))
        answer = client.get("/below")
        assert answer.status_code == 200 and str(answer.url).endswith("/below/")
        for link in re.findall(r'(?:src|href)="(static/[^"]*)"', answer.text):
            assert client.get(f"/below/{link}").status_code == 200
        headers = {"Authorization": f"Bearer {key}"}
        assert client.post("/below/files?name=a.txt", content=b"a", headers=headers).status_code == 200
        assert client.post("/below/", data={"text": "a"}).status_code == (200 if key is None else 403)


def test_many_classes(tmp_path: Path) -> None:
    """The form shows eight, the others behind a line; a file's rows have the twenty best."""
    classifier = pyllmclf.load(gpt2_folder(tmp_path / "model", n_classes=1000))
    client = client_of(classifier)
    html = client.post("/", data={"text": "a"}).text
    assert "<summary>992 more</summary>" in html and html.count('class="percent"') == 1000
    about, row, end = send_file(client, b"a text\n", "a.txt")
    assert about["best"] == 20 and len(about["classes"]) == 1000
    probabilities = classifier.predict_proba("a text")
    order = np.argsort(-probabilities, kind="stable")[:20]
    assert list(row["probabilities"]) == [about["classes"][i] for i in order]
    assert np.allclose(list(row["probabilities"].values()), probabilities[order], atol=1e-5)
    assert end == {"done": True, "rows": 1, "truncated": 0}
    assert send_file(client, b"a text\n" + b"long " * 100, "a.txt")[-1]["truncated"] == 1


# --- files ------------------------------------------------------------------------------------------------------------


def in_format(name: str, folder: Path) -> bytes:
    """A labelled file with an ``id`` beside texts and labels, in the format of a name."""
    frame = pd.DataFrame({"id": range(len(TEXTS)), "text": TEXTS, "label": LABELS})
    path = folder / name
    if name.endswith((".csv", ".tsv", ".csv.gz")):
        content = table(frame.to_dict("list"), "\t" if "tsv" in name else ",")
        return gzip.compress(content) if name.endswith(".gz") else content
    if name.endswith(".jsonl"):
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    elif name.endswith(".json"):
        frame.to_json(path, orient="records")
    elif name.endswith(".parquet"):
        frame.to_parquet(path, index=False)
    elif name.endswith(".feather"):
        frame.to_feather(path)
    else:
        (xlsx if name.endswith(".xlsx") else ods)(path, [list(frame), *frame.to_numpy().tolist()])
    return path.read_bytes()


@pytest.mark.parametrize(
    "name", ["a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.json", "a.parquet", "a.feather", "a.xlsx", "a.ods"]
)
def test_formats(client: TestClient, classifier: pyllmclf.Classifier, name: str, tmp_path: Path) -> None:
    about, *rows, end = send_file(client, in_format(name, tmp_path), name, model="one")
    assert about["rows"] == len(rows) == end["rows"] == len(TEXTS)
    assert (about["columns"], about["text_columns"], about["label_column"]) == (
        ["id", "text", "label"],
        ["text"],
        "label",
    )
    assert [row["text"] for row in rows] == TEXTS and [row["given"] for row in rows] == LABELS
    assert [row["label"] for row in rows] == classifier.predict(TEXTS)
    found = np.array([[row["probabilities"][each] for each in about["classes"]] for row in rows])
    assert np.allclose(found, classifier.predict_proba(TEXTS), atol=1e-5)
    assert [row["length"] for row in rows] == list(map(len, TEXTS))
    assert [[str(row["cells"][0]), *row["cells"][1:]] for row in rows] == [[str(i), None, LABELS[i]] for i in range(6)]
    result = classifier.evaluate((TEXTS, LABELS))
    assert end["accuracy"] == result.accuracy and np.isclose(end["macro_f1"], result.macro_f1)
    assert end["errors"] == sum(not row["right"] for row in rows) == int((~result.right).sum())


def test_lines_of_text(client: TestClient, classifier: pyllmclf.Classifier) -> None:
    about, *rows, end = send_file(client, "\n".join(TEXTS).encode(), "a.txt")
    assert about["columns"] == [] and about["label_column"] is None and "given" not in rows[0]
    assert [row["text"] for row in rows] == TEXTS and "accuracy" not in end


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_several_labels(client: TestClient, several: pyllmclf.Classifier, kind: str) -> None:
    labels: list[list[str]] = [["a", "b"], [], ["c"], ["b"], ["a", "c"], ["c", "b"]]
    if kind == "csv":
        content = table({"text": TEXTS, "labels": ["|".join(each) for each in labels]})
    else:
        content = "\n".join(
            json.dumps({"text": t, "labels": each}) for t, each in zip(TEXTS, labels, strict=True)
        ).encode()
    about, *rows, end = send_file(client, content, f"a.{kind}", model="several")
    assert about["label_separator"] == "|" and [row["label"] for row in rows] == several.predict(TEXTS)
    assert [sorted(row["given"]) for row in rows] == [sorted(each) for each in labels]
    result = several.evaluate((TEXTS, labels))
    assert end["accuracy"] == result.accuracy and end["labelled"] == len(TEXTS)
    for figures in end["classes"]:
        expected = vars(result.per_class[figures.pop("class")])
        assert figures.pop("texts") == expected.pop("support") and figures == pytest.approx(expected)


def test_labels_that_are_missing_or_unknown(client: TestClient) -> None:
    content = table({"text": TEXTS, "label": ["delivery", "billing", "", "?", "account", "product"]})
    _, *rows, end = send_file(client, content, "a.csv", model="one")
    assert (end["labelled"], end["missing"], end["unknown"]) == (4, 1, 1)
    assert ["given" in row for row in rows] == [True, True, False, False, True, True]


def test_a_column_that_is_only_named_like_labels(client: TestClient) -> None:
    content = table({"text": TEXTS, "type": ["x"] * 6})
    about, *_, end = send_file(client, content, "a.csv", model="one")
    assert about["label_column"] is None and "accuracy" not in end
    answer = client.post("/files", params={"name": "a.csv", "label_column": "type", "model": "one"}, content=content)
    assert answer.status_code == 422 and "no label of the column 'type'" in answer.json()["error"]["message"]


def test_columns_that_are_chosen(client: TestClient) -> None:
    content = table({"a": TEXTS, "b": TEXTS[::-1], "c": LABELS})
    about, row, *_, end = send_file(client, content, "a.csv", model="one", text_column="a,b", label_column="c")
    assert about["text_columns"] == ["a", "b"] and about["label_column"] == "c" and end["labelled"] == 6
    assert row["text"] == f"{TEXTS[0]} {TEXTS[-1]}" and row["cells"] == [TEXTS[0], TEXTS[-1], "delivery"]


def test_cells_are_those_that_javascript_has(client: TestClient) -> None:
    record = {
        "text": "a",
        "big": 2**60 + 1,
        "small": 7,
        "none": None,
        "deep": {"x": [1]},
        "true": True,
        "odd": "\ud800",
    }
    about, row, _ = send_file(client, json.dumps(record).encode(), "a.jsonl")
    assert about["columns"] == list(record)
    assert row["cells"] == [None, str(2**60 + 1), 7, None, '{"x": [1]}', True, r"\ud800"]


def test_nothing_is_written(client: TestClient, tmp_path: Path) -> None:
    """Neither the file nor its texts reach a disk."""
    contents = {name: in_format(name, tmp_path) for name in ("a.csv", "a.csv.gz", "a.parquet", "a.xlsx", "a.jsonl")}
    for name, content in contents.items():  # what is imported at the first use is compiled
        send_file(client, content, name)
    written: list[str] = []
    watching = True

    def hook(event: str, arguments: Any) -> None:
        if watching and event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(str(arguments[0]))

    sys.addaudithook(hook)  # for good, but inert afterwards
    (tmp_path / "seen").write_text("")
    assert written == [str(tmp_path / "seen")]
    written.clear()
    for name, content in contents.items():
        send_file(client, content, name)
    watching = False
    assert [path for path in written if path != os.devnull and not path.isdigit()] == []  # pipes have numbers


CUT = gzip.compress(table({"text": TEXTS * 50}), mtime=0)[:80]


@pytest.mark.parametrize(
    ("name", "content", "query", "sentence"),
    [
        ("a.csv", b"", {}, "a.csv: the file is empty."),
        ("a.csv", b"text\n", {}, "a.csv: "),
        ("a.txt", b"", {}, "the file is empty."),
        ("a.csv.gz", CUT, {}, "the file is damaged or incomplete."),
        ("a.parquet", b"PAR1" + b"\0" * 100, {}, "not a readable Parquet file"),
        ("a.xlsx", b"PK\x03\x04" + b"\0" * 100, {}, "a.xlsx: "),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', {}, "line 2"),
        ("a.csv", table({"text": TEXTS}), {"text_column": "body"}, "there is no column 'body'"),
        ("a.csv", table({"text": TEXTS}), {"label_column": "x"}, "there is no column 'x'"),
        ("a.csv", table({"u": [1], "v": [2]}), {}, "say which one with text_column."),
        ("a.txt", b"a\n", {"text_column": "x"}, "without columns"),
        ("a.pdf", b"%PDF", {}, "can't tell the format"),
        ("../../etc/passwd.csv", b"", {}, "passwd.csv: the file is empty."),
        ("a\x1b[31m.csv", b"", {}, r"a\x1b[31m.csv: the file is empty."),
        ("a.csv", b"text\n\xff\xfe\x00\x81", {}, "a.csv"),
    ],
)
def test_files_that_cannot_be_read(
    client: TestClient, name: str, content: bytes, query: dict[str, str], sentence: str
) -> None:
    answer = client.post("/files", params={"name": name} | query, content=content)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 422, message
    assert sentence in message and message.endswith(".") and "\n" not in message and "--" not in message
    assert "/tmp" not in message and "etc" not in message.replace("etc.", "")


def test_other_requests_that_are_refused(classifier: pyllmclf.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of(classifier, max_file_bytes=100)
    assert client.post("/files", content=b"a").status_code == 400
    assert client.post("/files?name=a.txt&model=none", content=b"a").status_code == 404
    assert client.post("/files?name=a.txt", content=b"a" * 101).status_code == 413
    monkeypatch.setattr(files, "MOST_FILES", 0)
    answer = client.post("/files?name=a.txt", content=b"a")
    assert answer.status_code == 429 and answer.headers["retry-after"] == "5"


@pytest.mark.parametrize("name", ["a.txt.gz", "a.parquet", "a.csv"])
def test_small_files_that_are_large(classifier: pyllmclf.Classifier, name: str, tmp_path: Path) -> None:
    """Unpacked, or as rows; they are refused before they fill the memory."""
    client = client_of(classifier, max_file_bytes=20_000)
    if name.endswith(".gz"):
        content = gzip.compress(b"a" * 10**6)
    elif name.endswith(".parquet"):
        pd.DataFrame({"text": ["a" * 100] * 5000}).to_parquet(tmp_path / name)
        content = (tmp_path / name).read_bytes()
    else:
        content = b"text\n" + b"a\n" * 5000
    assert len(content) < 20_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uploads, "MOST_ROWS", 4000)
        answer = client.post("/files", params={"name": name}, content=content)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 422 and message.endswith("; send a part of it."), message


def test_a_failure_midway_is_the_last_line(classifier: pyllmclf.Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the place of the file is free again."""
    client = client_of(classifier)
    monkeypatch.setattr(files, "MOST_FILES", 1)
    classify, calls = Service.classify, 0

    async def failing(self: Service, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RequestError(500, "it broke.")
        return await classify(self, *arguments, **options)

    content = b"a\n" * (files.CHUNK_TEXTS + 1)
    monkeypatch.setattr(Service, "classify", failing)
    _, *rows, end = send_file(client, content, "a.txt")
    assert len(rows) == files.CHUNK_TEXTS and end == {"error": "it broke.", "status": 500}
    monkeypatch.setattr(Service, "classify", classify)
    assert send_file(client, content, "a.txt")[-1]["done"]


def test_a_newer_checkpoint_midway(classifier: pyllmclf.Classifier, tmp_path: Path) -> None:
    """A file's predictions are of one classifier."""
    classifier.save(tmp_path / "saved")
    application = app({"one": classifier}, access_log=False)
    client = TestClient(application)
    other, classify = pyllmclf.load(tmp_path / "saved"), Service.classify

    async def replaced(self: Service, *arguments: Any, **options: Any) -> Any:
        answer = await classify(self, *arguments, **options)
        return answer.__class__(
            **vars(answer) | {"served": answer.served.__class__(**vars(answer.served) | {"classifier": other})}
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "classify", replaced)
        _, end = send_file(client, b"a\n", "a.txt")
    assert end["status"] == 503 and "newer checkpoint" in end["error"]


class Busy:
    """Stands for a service that refuses some requests; answers with the texts."""

    def __init__(self, *refusals: RequestError, most: int = 1000) -> None:
        self.refusals, self.most = list(refusals), most

    async def classify(self, name: str, texts: list[str], *, most: int) -> list[str]:
        if self.refusals:
            raise self.refusals.pop(0)
        if len(texts) > self.most:
            raise RequestError(413, "too many windows.")
        return texts


def answers(service: Any, texts: list[str], patience: float = 10.0) -> list[list[str]]:
    async def collect() -> list[Any]:
        return [answer async for answer in files._answers(service, "one", texts, patience)]

    return asyncio.run(collect())


def test_a_file_waits_for_a_full_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    full = [RequestError(429, "full.", {"Retry-After": "2"}) for _ in range(3)]
    assert answers(Busy(*full), ["a"]) == [["a"]] and slept == [2, 2, 2]
    with pytest.raises(RequestError, match="full"):
        answers(Busy(*full), ["a"], patience=3)


def test_chunks_that_are_too_large_are_halved() -> None:
    texts = list(map(str, range(10)))
    parts = answers(Busy(most=3), texts)
    assert list(chain(*parts)) == texts and max(map(len, parts)) <= 3
    assert list(chain(*answers(Busy(RequestError(504, "late.")), texts))) == texts
    with pytest.raises(RequestError):
        answers(Busy(most=0), ["a"])


@pytest.mark.parametrize("lengths", [[], [1], [10**6], [10, 10**6, 10, 10], [300] * 1000, [files.CHUNK_CHARACTERS] * 3])
def test_chunks(lengths: list[int]) -> None:
    texts = ["a" * length for length in lengths]
    found = list(files.chunks(texts, 100))
    assert [row for chunk in found for row in chunk] == list(range(len(texts)))
    for chunk in found:
        assert len(chunk) == 1 or sum(lengths[row] for row in chunk) <= files.CHUNK_CHARACTERS
        assert 1 <= len(chunk) <= 100


def test_a_tally_of_nothing() -> None:
    empty = Tally(["a", "b"]).figures()
    assert empty == {"labelled": 0, "errors": 0, "accuracy": None, "macro_f1": None, "classes": []}
    tally = Tally(["a", "b", "c"])
    tally.add([0], [1])
    tally.add([0], [0])
    figures = tally.figures()
    assert [each["class"] for each in figures["classes"]] == ["b", "a"] and figures["errors"] == 1
