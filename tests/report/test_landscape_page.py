import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError
from saccade.report.landscape_page import MEANING, write_landscape_report
from tests.report.landscape_fixture import LEAN, landscape_results


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all of them are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in {"p", "li", "dd", "dt"} and self.open[-1] != tag:
            return
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("full")
    results = landscape_results(folder)
    return results, write_landscape_report(results, folder).read_text()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("lean")
    return landscape_results(folder, LEAN), folder


@pytest.fixture
def lean(small: tuple[dict[str, Any], Path]) -> dict[str, Any]:
    """Results that are drawn quickly; each test may spoil its own copy."""
    return copy.deepcopy(small[0])


def rendered(results: dict[str, Any], small: tuple[dict[str, Any], Path]) -> str:
    return write_landscape_report(results, small[1]).read_text()


def test_the_page_loads_nothing(full: tuple[dict[str, Any], str]) -> None:
    page = full[1]
    tags = Tags(page)
    assert not tags.open
    for tag, attributes in tags.found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import|https?://", page)
    assert "default-src 'none'" in page


def test_the_verdict_comes_first_then_scores_then_moments(
    full: tuple[dict[str, Any], str],
) -> None:
    results, page = full
    body = page[page.index("<body>") :]
    sentence = results["verdict"]["sentence"]
    assert results["verdict"]["success"]
    assert 'class="verdict success"' in body
    places = [body.index(mark) for mark in (sentence, "<table", "<svg", "<img")]
    assert places == sorted(places)
    table = body[body.index("<tbody>") : body.index("</tbody>")]
    for name in ("base", "turned", "standing still", "best possible on this grid"):
        assert f'<th scope="row">{name}' in table
    distance = results["models"][0]["summary"]["all"]["scores"]["distance"]
    assert f"{100 * distance['value']:.2f} <small>[{100 * distance['low']:.2f}, " in table


def test_every_figure_is_there_once(full: tuple[dict[str, Any], str]) -> None:
    spoken = re.findall(r'<svg [^>]*aria-label="([^"]+)"', full[1])
    titles = [label.split(", energy")[0].split(", distance")[0] for label in spoken]
    assert len(set(spoken)) == len(spoken)
    for title in (
        "Distance to the true action over training",
        "base, episode 2, step 0",
        "turned, episode 2, step 0, one scale",
        "turned, slice through the truth",
        "base, surface",
        "Energy Landscape, summed",
        "Along gripper",
        "Where the minimum goes on wider grids",
        "base, 2 x as wide",
        "base, reversed time",
        "base, another&#39;s goal",
    ):
        assert title in titles, (title, titles)
    identifiers = re.findall(r' id="([^"]+)"', full[1])
    assert len(identifiers) == len(set(identifiers))
    images = re.findall(r'<img [^>]*alt="([^"]+)"', full[1])
    assert images == ["episode 2, step 0: present", "episode 2, step 0: goal"]


def test_adapters_are_compared_and_alarms_have_a_meaning(
    full: tuple[dict[str, Any], str],
) -> None:
    results, page = full
    change = results["models"][1]["paired"]["scores"]["distance"]
    assert f"{100 * change['value']:.2f} <small>[" in page
    assert '<td class="mark">higher</td>' in page
    assert {alarm["name"] for alarm in results["alarms"]} <= MEANING.keys()
    assert MEANING["floor"] in page
    assert "saccade energy --model toy" in page


def test_the_same_results_give_the_same_bytes_after_a_trip_through_json(
    lean: dict[str, Any], small: tuple[dict[str, Any], Path]
) -> None:
    assert rendered(lean, small) == rendered(json.loads(json.dumps(lean)), small)


def test_a_success_is_shown_only_where_the_numbers_bear_it_out(
    lean: dict[str, Any], small: tuple[dict[str, Any], Path]
) -> None:
    lean["verdict"]["success"] = True
    for model in lean["models"]:
        model["summary"]["all"]["better_by"]["no_change"]["low"] = -0.01
    page = rendered(lean, small)
    assert 'class="verdict caution"' in page
    assert "The numbers do not bear this out" in page


def test_everything_is_escaped_and_what_is_absent_is_said(
    lean: dict[str, Any], small: tuple[dict[str, Any], Path]
) -> None:
    evil = '<script>alert("1")</script>'
    lean["title"] = lean["verdict"]["sentence"] = lean["models"][1]["name"] = evil
    lean["commands"] = lean["skipped"] = [evil]
    lean["models"][1]["step"] = None
    for model in lean["models"]:
        model["controls"] = {"reversed": None, "other_goals": None}
    lean["alarms"] = []
    page = rendered(lean, small)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5
    assert "No curve over training" in page
    assert page.count("left out</td>") == 4
    assert "Nothing rang any of these" in page


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda r: r.update(format=2), "kind and format are 'landscape' and 2"),
        (lambda r: r["data"].pop("camera"), "data.camera is missing"),
        (lambda r: r.update(models=[]), "models or pictures are empty"),
        (lambda r: r["models"][0]["summary"].update(moments="5"), r"summary\.moments is '5'"),
        (lambda r: r["models"][0].pop("drawn"), "'drawn' is missing"),
        (lambda r: r["models"][0]["drawn"][0]["main"].pop("energy"), "no landscape that saccade"),
        (lambda r: r["pictures"][0].update(goal="../x.png"), "outside"),
    ],
)
def test_malformed_results_are_an_error(
    lean: dict[str, Any], small: tuple[dict[str, Any], Path], spoil: Any, told: str
) -> None:
    spoil(lean)
    with pytest.raises(DataError, match=told):
        write_landscape_report(lean, small[1])
