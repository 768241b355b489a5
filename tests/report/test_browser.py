import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade.report.text import DASH
from tests.report.chromium import Page, browser

pytestmark = pytest.mark.skipif(browser() is None, reason="no chromium is installed")

NAMES = """[...document.querySelectorAll("#summary tbody tr")].filter(row => !row.hidden)
    .map(row => row.cells[0].textContent.trim())"""
KINDS = NAMES.replace("cells[0].textContent.trim()", "className")
CHOOSE = """(([name, value]) => {
    const field = document.getElementById("summary-controls").elements.namedItem(name);
    if (field.type === "checkbox") field.checked = value; else field.value = value;
    field.dispatchEvent(new Event("input", {bubbles: true}));
})(%s)"""
CELL = """document.querySelectorAll("#summary tbody tr")[0].cells[%d].textContent.trim()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("profile"))
    try:
        yield page
    finally:
        page.close()


@pytest.fixture
def page(tab: Page, full: Path) -> Page:
    """The whole page, as if just opened."""
    tab.complaints.clear()
    tab.asked.clear()
    tab.open(full / "report.html")
    return tab


def choose(page: Page, name: str, value: Any) -> None:
    page.run(CHOOSE % json.dumps([name, value]))


def click(page: Page, column: int) -> str:
    """Click a header; return how the column says that it is sorted."""
    head = f'document.querySelectorAll("#summary thead th")[{column}]'
    page.run(f"{head}.querySelector('button').click()")
    return page.run(f"{head}.getAttribute('aria-sort')")


def test_nothing_goes_wrong_and_nothing_is_loaded(page: Page, full: Path) -> None:
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert page.complaints == []
    own = (full / "report.html").as_uri()
    assert {url for url in page.asked if not url.startswith("data:")} == {own}
    assert page.run("document.getElementById('summary-controls').hidden") is False


def test_the_policy_keeps_others_out(page: Page) -> None:
    page.run(
        """document.body.append(Object.assign(document.createElement("script"),
        {textContent: "window.broken = true"}))"""
    )
    page.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/a.png'}))")
    assert page.run("window.broken === undefined")
    assert page.run("new Promise(done => setTimeout(done, 50)) && 1") == 1
    assert "Content Security Policy" in " ".join(page.complaints)


def test_a_header_sorts_and_floors_stay_apart_until_they_are_mixed(page: Page) -> None:
    before = page.run(NAMES)
    assert click(page, 2) == "descending"
    assert page.run(NAMES) == before  # it is how the table begins
    assert click(page, 2) == "ascending"
    after = page.run(NAMES)
    assert after[:3] == before[:3][::-1]
    assert page.run(KINDS) == ["method"] * 3 + ["floor"] * 8
    choose(page, "apart", False)
    assert page.run(NAMES) == before[::-1]
    assert page.run(KINDS)[:2] == ["floor", "floor"]
    shade = "getComputedStyle(document.querySelector('#summary tr.%s td')).backgroundColor"
    assert page.run(shade % "floor") != page.run(shade % "method")
    assert click(page, 5) == "ascending"  # of an error, less is better
    assert page.run(NAMES)[0] == "two-stream strong"
    assert click(page, 0) == "ascending"
    assert page.run(NAMES) == sorted(before)
    page.run("document.getElementById('summary-controls').reset()")
    page.run("0")
    assert page.complaints == []


def test_the_keyboard_sorts(page: Page) -> None:
    page.run('document.querySelectorAll("#summary thead th button")[0].focus()')
    for kind in ("keyDown", "keyUp"):
        page.send(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
            windowsVirtualKeyCode=13,
        )  # fmt: skip
    assert page.run(NAMES)[:2] == ["single-stream", "two-stream strong"]


def test_filters_hide_rows(page: Page) -> None:
    choose(page, "words", "RANDOM stream")
    assert page.run(NAMES) == ["random single-stream", "random two-stream strong"]
    assert page.run("document.querySelector('#summary-controls output').value") == "2 of 11 rows"
    choose(page, "words", "")
    choose(page, "kind", "method")
    assert page.run(KINDS) == ["method"] * 3


def test_selects_change_the_cells_and_what_heads_them(page: Page) -> None:
    first = page.run(CELL % 2)
    assert first == "0.61 [0.58, 0.65]"
    choose(page, "split", "1")
    assert page.run(CELL % 2) != first
    assert page.run(CELL % 9) == DASH  # clusters were not asked on held-out tasks
    choose(page, "gap", "2")
    note = "document.querySelectorAll('#summary thead th')[7].textContent.trim()"
    assert page.run(note).endswith("order, accuracy, gap 5")
    choose(page, "split", "0")
    choose(page, "gap", "1")
    assert page.run(CELL % 2) == first
    choose(page, "readout", "1")
    assert page.run(CELL % 2) != first


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_leaves_the_window(page: Page, width: int) -> None:
    page.resize(width)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    wide, window = page.run("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window == width
    outside = """[...document.querySelectorAll("body *")].filter(each =>
        !each.closest(".scroll, svg") && each.getBoundingClientRect().right > innerWidth + 1
    ).map(each => each.outerHTML.slice(0, 80))"""
    assert page.run(outside) == []


def test_it_prints_without_controls_and_uncut(page: Page) -> None:
    page.send("Emulation.setEmulatedMedia", media="print")
    page.resize(688)  # A4 without its margins
    style = "getComputedStyle(document.querySelector('%s')).%s"
    assert page.run(style % ("#summary-controls", "display")) == "none"
    assert page.run(style % (".scroll", "overflowX")) == "visible"
    wide = """[...document.querySelectorAll("table, svg")].filter(each => each.checkVisibility()
        && each.getBoundingClientRect().right > innerWidth + 1)
        .map(each => each.outerHTML.slice(0, 90))"""
    assert page.run(wide) == []
    printed = base64.b64decode(page.send("Page.printToPDF", printBackground=True)["data"])
    page.send("Emulation.setEmulatedMedia", media="")
    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/Type /Page\n") > 3
