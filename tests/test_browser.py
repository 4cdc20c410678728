"""The page of a server in Chromium: ``pytest -m browser``, after ``tests/install_browser.sh``."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from models import gpt2_folder
from starlette.applications import Starlette
from starlette.routing import Mount

import pyllmclf
from pyllmclf.cli.main import app as command_line
from pyllmclf.cli.main import run
from pyllmclf.server import app
from pyllmclf.server.page import files
from pyllmclf.server.service import Service

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; tests/install_browser.sh installs it"),
]

XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>"
ARABIC, CHINESE = "الطرد لم يصل بعد", "包裹还没有到 📦😀"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that is saved."""
    path = tmp_path_factory.mktemp("browser") / "classifier"
    options: dict[str, Any] = {"weights": "random", "pooling": "mean", "epochs": 1, "progress": False}
    pyllmclf.finetune("gpt2-nano", "sample", trainable="all", **options).classifier.save(path)
    return path


@pytest.fixture(scope="module")
def classifier(folder: Path) -> pyllmclf.Classifier:
    return pyllmclf.load(folder)


@pytest.fixture(scope="module")
def other() -> pyllmclf.Classifier:
    """A classifier of the same classes, which knows less."""
    options: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False, "seed": 3, "learning_rate": 1e-2}
    return pyllmclf.finetune("gpt2-nano", "sample", trainable="head", **options).classifier


@pytest.fixture(scope="module")
def several() -> pyllmclf.Classifier:
    """A classifier of texts that may have several labels, or none, with odd names."""
    labels = [["a", XSS], ["a"], [], [XSS, "مرحبا"], ["مرحبا"], ["a", "مرحبا"]] * 4
    texts = ["one", "two", "three", ARABIC, CHINESE, "six"] * 4
    options: dict[str, Any] = {"weights": "random", "epochs": 1, "progress": False, "multi_label": True}
    return pyllmclf.finetune("gpt2-nano", (texts, labels), trainable="all", **options).classifier


@contextmanager
def serving(application: Any) -> Iterator[str]:
    """Address of a server that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(application, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(classifier: pyllmclf.Classifier, other: pyllmclf.Classifier, several: pyllmclf.Classifier) -> Iterator[str]:
    with serving(app({"one": classifier, "other": other, "several": several}, access_log=False)) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, address: str) -> Iterator[Open]:
    """Opens the page; what the browser complains about fails the test: errors, and violations of the policy."""
    complaints, contexts = list[str](), list[Any]()

    def call(url: str = address, width: int = 1280, ready: bool = True, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.goto(url)
        if ready:
            page.wait_for_selector("#other option:nth-child(2)", state="attached")
        return page

    yield call
    for context in contexts:
        context.close()
    # The browser reports every answer with an error status, which the page says in a sentence.
    assert [text for text in complaints if not re.match("Failed to load resource.* 4[0-9][0-9]", text)] == []


def classify(page: Any, text: str, model: str = "one", other: str = "", lines: bool = False) -> None:
    page.select_option("#model", model)
    page.select_option("#other", other)
    page.set_checked("#lines", lines)
    page.fill("#text", text)
    page.click("#classify")
    page.wait_for_selector("#results .result, #error:not(:empty)")
    until(page, "!document.querySelector('#results').hasAttribute('aria-busy')")


def classify_file(page: Any, path: Path, model: str = "one") -> None:
    page.select_option("#model", model)
    page.set_input_files("#file", str(path))
    page.click("#classify-file")
    page.wait_for_selector("#file-results:not([hidden]), #file-error:not(:empty)")


def until(page: Any, expression: str) -> None:
    """Waits until an expression is true; playwright's own wait evaluates in the page, which the policy forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def no_wider(page: Any) -> None:
    """Asserts that nothing scrolls sideways."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def accessible(page: Any) -> None:
    """Asserts that axe-core finds nothing serious."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra 'browser'")
    found = axe.Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in serious] == []


@pytest.fixture(scope="module")
def labelled(classifier: pyllmclf.Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file with labels, some of them wrong, and with cells that are markup, formulas and of other scripts."""
    data = list(csv.reader(io.StringIO(_sample())))[1:]
    classes = classifier.classes_
    rows = [[str(i), text, str(classes[i % 4]) if i % 3 == 0 else label] for i, (text, label) in enumerate(data[:300])]
    for i, text in enumerate([XSS, ARABIC, CHINESE, "=1+1;=2", "-3", '@a,"b"', "x" * 300, "two\nlines", "   "]):
        rows[i][1] = text
    path = tmp_path_factory.mktemp("labelled") / "labelled.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["id", "text", "label"], *rows])
    return path


def _sample() -> str:
    from importlib import resources

    return resources.files("pyllmclf.data.sample").joinpath("messages.csv").read_text(encoding="utf-8")


# --- texts ------------------------------------------------------------------------------------------------------------


def test_a_text(open_page: Open, classifier: pyllmclf.Classifier) -> None:
    page = open_page()
    assert "4 classes: account" in page.inner_text("#about")
    page.fill("#text", "Charged twice!")
    page.press("#text", "Control+Enter")
    page.wait_for_selector(".result")
    assert page.inner_text(".labels") == classifier.predict("Charged twice!")
    shown = page.eval_on_selector_all(".percent", "all => all.map((one) => one.textContent)")
    assert shown == [f"{100 * p:.1f} %" for p in sorted(classifier.predict_proba("Charged twice!"), reverse=True)]
    widths = page.eval_on_selector_all(".bar", "all => all.map((b) => b.firstChild.getBoundingClientRect().width)")
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
    assert page.inner_text("#status") == "1 text classified."
    page.fill("#text", "  ")
    page.click("#classify")
    assert page.inner_text("#error") == "There is no text; type one."


def test_two_classifiers(open_page: Open, classifier: pyllmclf.Classifier, other: pyllmclf.Classifier) -> None:
    page = open_page()
    texts = [row[0] for row in csv.reader(io.StringIO(_sample()))][1:121]
    differ = [a != b for a, b in zip(classifier.predict(texts), other.predict(texts), strict=True)]
    assert 0 < sum(differ) < 120
    classify(page, "\n".join(texts), other="other", lines=True)
    assert page.inner_text("#status") == f"120 texts classified; the classifiers disagree on {sum(differ)}."
    assert page.locator(".result").count() == 50
    page.click("#results > button")
    assert page.locator(".result").count() == 100
    assert page.evaluate("document.activeElement === document.querySelectorAll('.result')[50]")
    page.click("#results > button")
    marks = page.eval_on_selector_all(".result", "all => all.map((one) => one.classList.contains('differs'))")
    assert marks == differ and page.locator(".differ").count() == sum(differ)
    sides = page.eval_on_selector_all(
        ".result:first-child .answer", "all => all.map((one) => one.getBoundingClientRect().top)"
    )
    assert len(sides) == 2 and sides[0] == sides[1]
    page.check("#only")
    assert page.locator(".result:not(.differs)").count() == 0


def test_several_labels(open_page: Open, several: pyllmclf.Classifier) -> None:
    """None, one or more, also where their names are markup or run from right to left."""
    page = open_page()
    texts = ["one", "two", "three", ARABIC, CHINESE]
    classify(page, "\n".join(texts), model="several", lines=True)
    shown = page.eval_on_selector_all(
        ".labels", "all => all.map((one) => [...one.querySelectorAll('.label')].map((label) => label.textContent))"
    )
    assert shown == several.predict(texts)
    assert XSS in page.eval_on_selector_all(".name", "all => all.map((one) => one.textContent)")
    assert page.locator("#results img").count() == 0


def test_many_classes(open_page: Open, tmp_path: Path) -> None:
    for classes in (77, 1000):
        classifier = pyllmclf.load(gpt2_folder(tmp_path / str(classes), n_classes=classes))
        with serving(app(classifier, access_log=False)) as url:
            page = open_page(url, width=380)
            classify(page, "a", model="classifier")
            assert page.locator(".bars li").count() == 8
            page.click("summary:has-text('more')")
            until(page, f"document.querySelectorAll('.bars li').length === {classes}")
            no_wider(page)
            page.close()


def test_scripts_of_the_world(open_page: Open) -> None:
    page = open_page()
    classify(page, f"{ARABIC}\n{CHINESE}\n{XSS}\nevil \u202etxt", lines=True)
    directions = page.eval_on_selector_all(".text", "all => all.map((one) => getComputedStyle(one).direction)")
    assert directions == ["rtl", "ltr", "ltr", "ltr"]
    shown = page.eval_on_selector_all(".text", "all => all.map((one) => one.textContent)")
    assert shown == [ARABIC, CHINESE, XSS, r"evil \u202etxt"]


def test_without_the_script(open_page: Open, classifier: pyllmclf.Classifier) -> None:
    page = open_page(java_script_enabled=False, ready=False)
    assert not page.is_visible("#file-form") and not page.is_visible("#other")
    page.fill("#text", f"two\nlines {XSS}")
    page.click("#classify")
    assert page.inner_text(".label") == classifier.predict(f"two\nlines {XSS}")
    assert page.input_value("#text") == f"two\nlines {XSS}"


def test_below_another_path(open_page: Open, classifier: pyllmclf.Classifier, labelled: Path) -> None:
    inner = app({"one": classifier, "same": classifier}, access_log=False)
    with serving(Starlette(routes=[Mount("/below", inner)])) as url:
        page = open_page(url + "below")
        classify(page, "a text", other="same")
        assert page.locator(".answer").count() == 2
        classify_file(page, labelled)
        assert page.inner_text("#file-status") == (
            "300 texts classified; the classifier reads only the beginning of 1."
        )
        page.close()


def test_a_key(open_page: Open, classifier: pyllmclf.Classifier) -> None:
    with serving(app({"one": classifier}, access_log=False, api_key="secret")) as url:
        page = open_page(url, ready=False)
        assert page.is_visible("#key-form") and not page.is_visible("#text-form")
        accessible(page)
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-error:not(:empty)")
        assert page.inner_text("#key-error") == "The key is not that of this server."
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("#text-form:not([hidden])")
        classify(page, "a text")
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0
        page.reload()
        page.wait_for_selector("#key-form:not([hidden])")
        page.fill("#key", "secret")
        page.check("#keep-key")
        page.keyboard.press("Enter")
        page.wait_for_selector("#text-form:not([hidden])")
        page.reload()
        page.wait_for_selector("#text-form:not([hidden])")
        assert not page.is_visible("#key-form")
        page.close()


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_evaluation(open_page: Open, classifier: pyllmclf.Classifier, labelled: Path) -> None:
    page = open_page()
    classify_file(page, labelled)
    result = classifier.evaluate(labelled)
    errors = int((~result.right).sum())
    figures = dict(zip(*[page.locator(f"#figures {tag}").all_inner_texts() for tag in ("dt", "dd")], strict=True))
    assert figures["Accuracy"] == f"{100 * result.accuracy:.2f} %" and figures["Errors"] == str(errors)
    assert figures["Macro-F1"] == f"{result.macro_f1:.4f}"
    table = [row.split() for row in page.locator("#classes tr").all_inner_texts()]
    worst = sorted(result.per_class.items(), key=lambda each: (each[1].f1, -each[1].support))
    assert table == [
        [str(name), str(m.support), *(f"{x:.3f}" for x in (m.precision, m.recall, m.f1))] for name, m in worst
    ]
    assert page.inner_text("#rows-status") == f"{errors} errors" and page.inner_text("#rows-title") == "Errors"
    assert page.locator("#rows li").count() == min(50, errors)
    page.click("#more-rows")
    assert page.locator("#rows li").count() == min(100, errors)
    assert page.evaluate("document.activeElement.closest('#rows') !== null")
    shown = confidences(page)
    assert shown == sorted(shown, reverse=True)
    page.select_option("#order", "up")
    until(page, "document.querySelector('#rows').children.length === 50")
    assert confidences(page) == sorted(confidences(page))
    assert page.locator("img").count() == 0


def confidences(page: Any) -> list[float]:
    return [float(value) for value in re.findall(r"([\d.]+) %", " ".join(page.locator(".facts").all_inner_texts()))]


def test_filters(open_page: Open, classifier: pyllmclf.Classifier, labelled: Path) -> None:
    page = open_page()
    classify_file(page, labelled)
    rows = list(csv.DictReader(labelled.open(encoding="utf-8", newline="")))
    texts, given = [row["text"] for row in rows], [row["label"] for row in rows]
    predicted = classifier.predict(texts)
    best = classifier.predict_proba(texts).max(axis=1)

    def check(name: str, expected: list[bool]) -> None:
        until(
            page,
            f"parseInt(document.querySelector('#rows-status').textContent.replace('No', '0')) === {sum(expected)}",
        )
        assert page.inner_text("#rows-status").startswith("No" if not any(expected) else str(sum(expected))), name

    wrong = [a != b for a, b in zip(given, predicted, strict=True)]
    check("errors", wrong)
    page.select_option("#given", "=billing")
    check("given", [w and g == "billing" for w, g in zip(wrong, given, strict=True)])
    page.select_option("#given", "")
    page.select_option("#predicted", "=delivery")
    check("predicted", [w and p == "delivery" for w, p in zip(wrong, predicted, strict=True)])
    page.click("button[type=reset]")
    page.select_option("#kind", "right")
    check("right", [not w for w in wrong])
    page.select_option("#kind", "")
    check("all", [True] * 300)
    page.fill("#confidence-from", "40")
    page.fill("#confidence-to", "60")
    check("confidence", [0.4 <= round(p, 6) <= 0.6 for p in best])
    page.click("button[type=reset]")
    page.select_option("#kind", "")
    page.fill("#length-from", "50")
    page.fill("#length-to", "80")
    check("length", [50 <= len(text) <= 80 for text in texts])
    page.click("button[type=reset]")
    page.select_option("#kind", "")
    page.fill("#search", "PARCEL")
    check("search", ["parcel" in text.lower() for text in texts])
    page.fill("#search", "zzzz")
    check("nothing", [False])


def download(page: Any, button: str) -> tuple[str, str]:
    with page.expect_download() as waiting:
        page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text(encoding="utf-8-sig")


def test_downloads_are_those_of_the_command_line(
    open_page: Open, labelled: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = open_page()
    classify_file(page, labelled)

    def expected(*options: str) -> str:
        capfd.readouterr()
        assert run(command_line, "pyllmclf", ["predict", str(folder), str(labelled), "--no-progress", *options]) == 0
        return capfd.readouterr().out

    name, text = download(page, "#download-csv")
    assert name == "labelled-predictions.csv"
    found, wanted = (
        list(csv.reader(io.StringIO(one, newline="")))
        for one in (text, expected("--format", "csv", "--proba", "--escape-formulas"))
    )
    assert [row[:4] for row in found] == [row[:4] for row in wanted] and found[0] == wanted[0]
    assert "'=1+1;'=2" in [row[1] for row in found] and "'-3" in [row[1] for row in found]
    for row, other in zip(found[1:], wanted[1:], strict=True):
        assert list(map(float, row[4:])) == pytest.approx(list(map(float, other[4:])), abs=1e-5)
    name, text = download(page, "#download-jsonl")
    assert name == "labelled-predictions.jsonl"
    found_rows, wanted_rows = (list(map(json.loads, one.splitlines())) for one in (text, expected("--format", "jsonl")))
    for one, another in zip(found_rows, wanted_rows, strict=True):
        assert one.pop("probabilities") == pytest.approx(another.pop("probabilities"), abs=1e-5)
        assert one == another


def test_a_file_without_labels(open_page: Open, several: pyllmclf.Classifier, tmp_path: Path) -> None:
    texts = ["one", "two", "three", ARABIC, CHINESE, XSS]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(texts), encoding="utf-8")
    page = open_page()
    classify_file(page, path, model="several")
    assert not page.is_visible("#evaluation") and not page.is_visible("#kind") and not page.is_visible("#given")
    assert page.inner_text("#rows-status") == "6 texts"
    _, text = download(page, "#download-csv")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [row["text"] for row in rows] == texts
    assert [row["labels"] for row in rows] == ["|".join(each) for each in several.predict(texts)]


def test_files_that_cannot_be_read(open_page: Open, tmp_path: Path) -> None:
    page = open_page()
    page.click("#classify-file")
    assert page.inner_text("#file-error") == "There is no file; choose one."
    path = tmp_path / "bad.csv"
    path.write_text("a,b\n1,2\n")
    classify_file(page, path)
    assert page.inner_text("#file-error").startswith("bad.csv, line 1: no column is named like a text")
    page.click("summary:has-text('Columns')")
    page.fill("#text-column", "c")
    classify_file(page, path)
    until(page, "document.querySelector('#file-error').textContent.includes('there is no column')")
    assert not page.is_visible("#file-results") and not page.is_visible("#progress")


def test_cancel(open_page: Open, labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is classified so far is shown, and the server computes no more."""
    original, calls = Service.classify, 0

    async def slow(self: Service, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            await asyncio.sleep(30)
        return await original(self, *arguments, **options)

    monkeypatch.setattr(Service, "classify", slow)
    monkeypatch.setattr(files, "MOST_FILES", 1)
    page = open_page()
    page.set_input_files("#file", str(labelled))
    page.click("#classify-file")
    until(page, "document.querySelector('#progress').value > 0.8")
    assert page.inner_text("#progress-text") == "Classified 256 of 300 texts"
    page.click("#cancel")
    page.wait_for_selector("#file-results:not([hidden])")
    assert page.inner_text("#file-error") == "Cancelled. 256 of 300 texts are classified."
    assert not page.is_visible("#evaluation") and calls == 2
    # Its place is free for the next file.
    monkeypatch.setattr(Service, "classify", original)
    page.click("#classify-file")
    page.wait_for_selector("#evaluation:not([hidden])")


def test_a_connection_that_breaks_off(open_page: Open, labelled: Path) -> None:
    page = open_page()
    lines = ['{"rows": 3, "columns": [], "text_columns": [], "label_column": null, "classes": ["a"], "best": null}']
    lines.append('{"label": "a", "probabilities": {"a": 1}, "length": 1, "text": "x"}')
    page.route("**/files?*", lambda route: route.fulfill(body="\n".join(lines) + '\n{"label": "a", "pro'))
    classify_file(page, labelled)
    assert page.inner_text("#file-error") == "The answer ended early. 1 of 3 texts are classified."


def test_a_file_that_is_dropped(open_page: Open) -> None:
    page = open_page()
    dropped = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['a\\nb\\n'], 'a.txt')); return data; }"
    )
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    assert page.evaluate("document.querySelector('#drop').classList.contains('over')")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    assert page.evaluate("document.activeElement.id") == "classify-file"
    page.keyboard.press("Enter")
    page.wait_for_selector("#file-results:not([hidden])")
    assert page.inner_text("#file-status") == "2 texts classified."


# --- everybody --------------------------------------------------------------------------------------------------------


def test_the_keyboard_alone(open_page: Open, labelled: Path) -> None:
    page = open_page()

    def tab_to(identity: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused, outline = page.evaluate(
                "[document.activeElement.id, getComputedStyle(document.activeElement).outlineWidth]"
            )
            assert outline not in ("", "0px"), focused
            if focused == identity:
                return
        raise AssertionError(identity)

    tab_to("model")
    tab_to("other")
    page.keyboard.press("ArrowDown")
    tab_to("text")
    page.keyboard.type("a text")
    tab_to("classify")
    page.keyboard.press("Enter")
    page.wait_for_selector(".result")
    tab_to("file")
    page.set_input_files("#file", str(labelled))
    tab_to("classify-file")
    page.keyboard.press("Enter")
    page.wait_for_selector("#file-results:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "file-title"
    tab_to("download-csv")
    tab_to("kind")
    page.keyboard.press("ArrowDown")
    until(page, "document.querySelector('#rows-title').textContent === 'Right predictions'")
    tab_to("search")
    tab_to("more-rows")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('#rows') !== null")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_accessibility_and_width(open_page: Open, labelled: Path, scheme: str, width: int) -> None:
    page = open_page(width=width, color_scheme=scheme)
    accessible(page)
    no_wider(page)
    classify(page, f"a text\n{'long' * 100}\n{ARABIC}\n{CHINESE}", other="other", lines=True)
    accessible(page)
    no_wider(page)
    classify_file(page, labelled)
    page.click("summary:has-text('Columns')")
    page.select_option("#kind", "")
    accessible(page)
    no_wider(page)
    page.set_input_files("#file", [])
    page.click("#classify-file")
    accessible(page)


def test_colours(open_page: Open) -> None:
    def brightness(page: Any) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    page = open_page(color_scheme="dark")
    assert brightness(page) < 60
    page.select_option("#theme", "light")
    assert brightness(page) > 200
    page.reload()
    assert brightness(page) > 200 and page.input_value("#theme") == "light"
    page.select_option("#theme", "")
    assert brightness(page) < 60
    assert brightness(open_page(color_scheme="light")) > 200


def test_reduced_motion(open_page: Open) -> None:
    durations = []
    for motion in ("reduce", "no-preference"):
        page = open_page(reduced_motion=motion)
        classify(page, "a text")
        durations.append(page.evaluate("getComputedStyle(document.querySelector('.bar rect')).transitionDuration"))
    assert durations == ["0s", "0.2s"]


def test_what_screen_readers_are_told(open_page: Open, labelled: Path) -> None:
    page = open_page()
    assert page.get_attribute("html", "lang") == "en"
    for identity in ("status", "file-status", "rows-status"):
        assert page.get_attribute(f"#{identity}", "role") == "status"
    assert page.get_by_label("Text", exact=True).get_attribute("id") == "text"
    classify_file(page, labelled)
    assert page.get_by_role("columnheader").all_inner_texts() == ["Class", "Texts", "Precision", "Recall", "F1"]
    assert page.get_by_role("rowheader").count() == 4
    assert page.get_by_role("group", name="Confidence, %").count() == 1
