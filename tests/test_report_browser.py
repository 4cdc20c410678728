"""Reports in Chromium: ``pytest -m browser``, after ``tests/install_browser.sh``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_pages import many_classes
from test_report_page import ABOUT, HOSTILE, LENGTHS, NAMES, one_label, several_labels

from pyllmclf.data.readers import TextData
from pyllmclf.evaluation.metrics import EvaluationResult, evaluate_logits
from pyllmclf.evaluation.report import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra 'browser'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium; tests/install_browser.sh installs it"),
]

Open = Callable[..., Any]
HISTORY = [{"epoch": e, "train_loss": 1 / e, "train_accuracy": 1 - 1 / (e + 1)} for e in (1, 2, 3)]


def rare_confusion() -> EvaluationResult:
    """Of 400 texts of class a, b is predicted surely; of one of class c, a by a little."""
    logits = np.array([[0.0, 9.0, 0.0]] * 400 + [[0.1, 0.0, 0.0]])
    return evaluate_logits(logits, np.array([0] * 400 + [2]), ["a", "b", "c"], lengths=LENGTHS)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of 2, 6, 38 and 1,000 classes and of several labels."""
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    made = {
        "2": one_label(400, 2, noise=1.5),
        "6": one_label(400, 6, [*NAMES, "six"], noise=1.5),
        "38": one_label(900, 38, noise=1.2),
        "several": several_labels(),
        "rare": rare_confusion(),
    }
    for name, result in made.items():
        count = len(result.labels)
        texts = [f"text {i}: {HOSTILE} {'word ' * (i % 200)}" for i in range(count)]
        data = TextData(texts, None, "data.csv", list(range(2, count + 2)))
        found[name] = folder / f"{name}.html"
        write_report(found[name], result, data, np.arange(count) % 40 + 1, ABOUT, HISTORY)
    found["1000"] = folder / "1000.html"
    write_report(found["1000"], *many_classes(), ABOUT, HISTORY)
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, pages: dict[str, Path]) -> Iterator[Open]:
    """Opens a report; what the browser complains about fails the test: errors, and violations of the policy."""
    complaints, contexts = list[str](), list[Any]()

    def call(name: str, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.goto(pages[name].as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("width", [1280, 380])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["2", "6", "38", "1000", "several"])
def test_accessible_and_no_wider_than_the_window(open_page: Open, name: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra 'browser'")
    page = open_page(name, width, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for summary in page.locator("details > summary").all()[:40]:
        if summary.is_visible():
            summary.click()
    found = axe.Axe().run(page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert [(each["id"], [node["target"] for node in each["nodes"]][:3]) for each in serious] == []


def test_without_the_script(open_page: Open) -> None:
    page = open_page("38", java_script_enabled=False)
    assert page.locator("[data-script]:visible").count() == 0
    assert page.locator("#error-list > li:visible").count() == 10
    page.click("#more-errors > summary")
    assert page.locator("#more-errors li:visible").count() > 10
    before = page.locator("#matrix").bounding_box()["width"]
    page.check(".level-2")
    assert page.locator("#matrix").bounding_box()["width"] > 1.5 * before


def test_tables_sort(open_page: Open) -> None:
    page = open_page("38")

    def column(number: int) -> list[str]:
        return page.eval_on_selector_all(
            f"#class-table tbody tr > :nth-child({number})", "all => all.map((cell) => cell.textContent)"
        )

    f1 = column(4)
    assert f1 == sorted(f1)
    page.click("#class-table th:has-text('recall') button")
    assert column(3) == sorted(column(3))
    page.click("#class-table th:has-text('recall') button")
    assert column(3) == sorted(column(3), reverse=True)
    assert page.get_attribute("#class-table th:has-text('recall')", "aria-sort") == "descending"
    page.fill("[data-filters=class-table]", "class 37")
    assert page.locator("#class-table tbody tr:visible").count() == 1


def test_errors_are_filtered(open_page: Open) -> None:
    page = open_page("6")
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent).errors")

    def shown() -> int:
        return int(page.inner_text("#error-count").split()[0].replace(",", ""))

    assert shown() == len(data)
    page.select_option("#error-label", NAMES[0])
    assert shown() == sum(error["labels"] == [NAMES[0]] for error in data)
    page.select_option("#error-label", "")
    page.fill("#error-low", "60")
    assert shown() == sum(error["confidence"] >= 0.6 for error in data)
    page.fill("#error-low", "")
    page.fill("#error-long", "10")
    assert shown() == sum(error["tokens"] <= 10 for error in data)
    page.fill("#error-long", "")
    page.fill("#error-search", f"TEXT {data[3]['number']}:")
    assert shown() == 1 and page.locator(f"#text-{data[3]['number']}:visible").count() == 1
    page.locator(".matrix td button").first.click()
    label, predicted = page.input_value("#error-label"), page.input_value("#error-prediction")
    assert shown() == sum(error["labels"] == [label] and error["predictions"] == [predicted] for error in data) > 0
    last = data[-1]["number"]
    page.evaluate(f"location.hash = '#text-{last}'")
    page.wait_for_selector(f"#text-{last}")


def test_a_cell_without_errors_in_the_list_shows_none(open_page: Open) -> None:
    """Rather than all of them: the list has the most confident 300, and the rare confusion is none of these."""
    page = open_page("rare")
    assert page.locator("#error-list > li").count() == 300
    page.locator("td[data-true=c] button").click()
    assert page.input_value("#error-label") == "c" and page.inner_text("#error-count") == "0 errors."


def test_curves_slider_and_matrix(open_page: Open) -> None:
    page = open_page("1000")
    data = page.evaluate("JSON.parse(document.getElementById('data').textContent)")
    page.select_option("#curve-class", "7")
    assert f"{data['curves']['7']['roc_area']:.4f}" in page.inner_text("figure:has(#chart-roc) .chosen")
    assert page.locator("#chart-recall .added polyline").count() == 1
    page.focus("#coverage-slider")
    page.keyboard.press("Home")
    first = data["coverage"][0]
    assert f"{first['answered']:,} texts" in page.inner_text("#coverage-output")
    page.focus("#zoom")
    page.keyboard.press("ArrowDown")
    true, predicted = data["order"][1], data["order"][0]
    texts = sum(n for t, p, n in data["confusion_cells"] if (t, p) == (true, predicted))
    assert data["figures"]["classes"][true] in page.inner_text("#cell")
    assert f": {texts} text" in page.inner_text("#cell")
    box = page.locator("#matrix").bounding_box()
    page.locator("#matrix").hover(position={"x": box["width"] * 0.6, "y": box["height"] * 0.6})
    assert page.inner_text("#cell").count("“") == 2


def test_print(open_page: Open) -> None:
    page = open_page("6")
    page.emulate_media(media="print")
    assert page.locator(".filters:visible, nav:visible").count() == 0
