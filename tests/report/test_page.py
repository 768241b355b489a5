import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError
from saccade.report.page import write_report
from tests.report.results_fixture import FLOORS, METHODS, RANDOM, realistic


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The whole page, for tests that only read it."""
    folder = tmp_path_factory.mktemp("full")
    return rendered(realistic(folder), folder)


@pytest.fixture
def lean(tmp_path: Path) -> dict[str, Any]:
    """Small results, for tests that change them and render."""
    return realistic(tmp_path, lean=True)


def rendered(results: dict[str, Any], folder: Path) -> str:
    return write_report(results, folder).read_text()


def test_the_page_loads_nothing(page: str) -> None:
    for tag, attributes in Tags(page).found:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page


def test_the_verdict_comes_first_then_methods_and_floors(page: str) -> None:
    body = page[page.index("<body>") :]
    marks = ("All three pretrained encoders beat", "<table", "<svg", "<img")
    places = [body.index(mark) for mark in marks]
    assert places == sorted(places)
    table = body[body.index("<tbody>") : body.index("</tbody>")]
    for name in [*METHODS, *FLOORS, *(f"random {name}" for name in RANDOM)]:
        assert f"</span>{name}</th>" in table
    assert table.count('<td class="mark above">above</td>') == 3


def test_a_success_is_shown_only_when_claimed_and_borne_out(
    page: str, lean: dict[str, Any], tmp_path: Path
) -> None:
    assert 'class="verdict success"' in page
    lean["verdict"]["success"] = False
    assert 'class="verdict caution"' in rendered(lean, tmp_path)
    lean["verdict"]["success"] = True
    for row in lean["probes"]:
        if row["kind"] == "floor":
            row["r2_high"] = 0.99
    contradicted = rendered(lean, tmp_path)
    assert 'class="verdict caution"' in contradicted
    assert "does not bear this out" in contradicted


def test_everything_is_escaped(lean: dict[str, Any], tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>'
    lean["title"] = lean["verdict"]["sentence"] = lean["data"]["camera"] = evil
    lean["commands"] = lean["data"]["tasks"] = [evil]
    lean["models"][0]["name"] = lean["probes"][0]["representation"] = evil
    lean["models"][0]["runs"][0]["baseline_name"] = evil
    page = rendered(lean, tmp_path)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 8


def test_few_seeds_are_told(page: str, lean: dict[str, Any], tmp_path: Path) -> None:
    assert "too few for a claim across seeds" in page
    lean["budget"]["seeds"] = [0, 1, 2]
    enough = rendered(lean, tmp_path)
    assert "too few" not in enough
    assert "Other seeds" not in enough


def test_alarms_are_listed_with_their_meaning(
    page: str, lean: dict[str, Any], tmp_path: Path
) -> None:
    assert "No run rang any of these" in page
    alarm = {"name": "leak", "detail": "input 'p' moved by 0.83", "severity": "error"}
    lean["models"][0]["runs"][0]["alarms"] = [alarm]
    rung = rendered(lean, tmp_path)
    assert "No run rang" not in rung
    assert "input &#39;p&#39; moved by 0.83" in rung
    assert "depends on the frame that is to be predicted" in rung


def test_what_is_absent_is_left_out(lean: dict[str, Any], tmp_path: Path) -> None:
    for model in lean["models"]:
        model["flops_per_sample"] = None
        for run in model["runs"]:
            del run["pictures"], run["features"]
    page = rendered(lean, tmp_path)
    assert "Rotation" not in page
    assert "<small>held-out tasks</small>" not in page
    assert "No pictures were saved" in page
    assert "No task was held out" in page
    assert "Do the methods differ?" not in page


def test_a_single_gap_and_no_training_are_enough(lean: dict[str, Any], tmp_path: Path) -> None:
    lean["probes"] = [row for row in lean["probes"] if row["gap"] == 1]
    for model in lean["models"]:
        model["runs"] = []
    page = rendered(lean, tmp_path)
    assert "No run was evaluated beside a baseline" in page
    assert "over 1 step (" in page


def test_nothing_probed_is_not_a_success(lean: dict[str, Any], tmp_path: Path) -> None:
    lean["probes"] = []
    page = rendered(lean, tmp_path)
    assert 'class="verdict unknown"' in page
    assert "Nothing was probed" in page


def test_pictures_are_inside_with_their_size(page: str) -> None:
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == 5 + 5 + 3
    assert all((image["width"], image["height"]) == ("128", "128") for image in images)
    assert images[2]["alt"] == "two-stream strong: prediction"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("pictures/gone.png", "picture 'frame t' is missing at"),
        ("../secret.png", "outside"),
        ("note.png", "is not a PNG file"),
    ],
)
def test_a_bad_picture_is_an_error(
    lean: dict[str, Any], tmp_path: Path, path: str, message: str
) -> None:
    (tmp_path / "note.png").write_text("this is a text, and a long one")
    lean["models"][0]["runs"][0]["pictures"]["frame t"] = path
    with pytest.raises(DataError, match=message):
        write_report(lean, tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_malformed_results_are_an_error(lean: dict[str, Any], tmp_path: Path) -> None:
    del lean["verdict"]["success"]
    with pytest.raises(DataError, match=r"verdict.success is missing"):
        write_report(lean, tmp_path)


def test_the_same_results_give_the_same_bytes(lean: dict[str, Any], tmp_path: Path) -> None:
    assert rendered(lean, tmp_path) == rendered(lean, tmp_path)
