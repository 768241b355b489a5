import base64
import copy
import hashlib
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
def page(full: Path) -> str:
    """The whole page, for tests that only read it."""
    return (full / "report.html").read_text()


@pytest.fixture
def lean(tmp_path: Path) -> dict[str, Any]:
    """Small results, for tests that change them and render."""
    return realistic(tmp_path, lean=True)


def rendered(results: dict[str, Any], folder: Path) -> str:
    return write_report(results, folder).read_text()


def test_the_page_loads_nothing(page: str) -> None:
    for tag, attributes in Tags(page).found:
        assert tag not in {"link", "iframe", "object", "embed", "base"}
        allowed = ("#", "data:image/png;base64,", *(("tables/",) if tag == "a" else ()))
        for name in ("src", "href", "xlink:href", "srcset"):
            assert (attributes.get(name) or "#").startswith(allowed)
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page


def test_only_our_own_script_may_run(page: str) -> None:
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    assert [kind for kind, _ in scripts] == [' type="application/json" id="summary-data"', ""]
    digest = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page
    assert not re.search(r"<[^>]+ on[a-z]+=", page)


def test_every_file_that_is_linked_is_there(page: str, full: Path) -> None:
    linked = [a["href"] for tag, a in Tags(page).found if tag == "a"]
    files = [href for href in linked if href and href.startswith("tables/")]
    assert len(files) == 4 * 7
    assert all((full / href).is_file() for href in files)


def test_every_place_that_is_linked_is_there(page: str) -> None:
    tags = Tags(page).found
    places = [a["id"] for _, a in tags if a.get("id")]
    assert len(set(places)) == len(places)
    inside = [a["href"] for tag, a in tags if tag == "a" and (a.get("href") or "").startswith("#")]
    assert {str(href)[1:] for href in inside} <= set(places)
    assert len(inside) > 10


def test_the_verdict_comes_first_then_criteria_methods_and_floors(page: str) -> None:
    body = page[page.index("<body>") :]
    marks = ("All three pretrained encoders beat", 'id="criteria"', 'id="scores"', "<svg", "<img")
    places = [body.index(mark) for mark in marks]
    assert places == sorted(places)
    table = body[body.index('id="summary"') :]
    table = table[table.index("<tbody>") : table.index("</tbody>")]
    for name in [*METHODS, *FLOORS, *(f"random {name}" for name in RANDOM)]:
        assert f"</span>{name}</th>" in table
    assert table.count('<td class="mark above">above</td>') == 3
    assert '<td class="num best">0.61 <small>[0.58, 0.65]</small></td>' in table
    assert 'class="result undecided">? undecided' in body


def test_collapsed_features_ring_an_alarm(page: str) -> None:
    told = "collapse: effective rank below 2, mean cosine above 0.99"
    assert page.count(told) == 1
    assert page.index("1.3") < page.index(told)


def test_a_success_is_shown_only_when_claimed_and_borne_out(
    page: str, lean: dict[str, Any], tmp_path: Path
) -> None:
    assert 'class="verdict success"' in page
    lean["verdict"]["success"] = False
    assert 'class="verdict caution"' in rendered(lean, tmp_path)
    lean["verdict"]["success"] = True
    for row in lean["probes"]:
        if row["kind"] == "floor":
            row["high"] = 0.99
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
    assert evil not in page
    assert page.count("<script") == 2
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
    assert "Seen and unseen" not in page
    assert "Features in a plane" not in page
    assert "Ablation" not in page
    assert "What is taken for what" not in page
    assert "No pictures were saved" in page
    assert "No task was held out" in page
    assert "No scene was held out" in page
    assert "may be lost to the task" not in page
    assert "Do the methods differ?" not in page


def test_held_out_scenes_are_a_split_of_the_table_and_limit_the_claim(
    lean: dict[str, Any], tmp_path: Path
) -> None:
    lean["data"]["parts"]["unseen scenes"] = {"episodes": 9, "frames": 90}
    lean["data"] |= {
        "held_out_scenes": ["attic", "hall 2"],
        "new_tasks": ["push", "pull", "turn", "fold"],
    }
    lean["probes"] += [{**row, "split": "unseen scenes"} for row in lean["probes"]]
    page = rendered(lean, tmp_path)
    assert re.search(r">held-out scenes</option>", page)
    assert "<dt>Held-out scenes</dt><dd>attic, hall 2</dd>" in page
    assert "<b>2</b> scenes held out" in page
    assert "Any new scene" in page
    assert "Seen and unseen" in page
    assert "No scene was held out" not in page
    assert "There 4 tasks are new too (push, pull, turn, …), so what is lost there may be" in page


def test_a_single_gap_and_no_training_are_enough(lean: dict[str, Any], tmp_path: Path) -> None:
    lean["probes"] = [row for row in lean["probes"] if row["gap"] == 1]
    for model in lean["models"]:
        model["runs"] = []
    page = rendered(lean, tmp_path)
    assert "No run was evaluated beside a baseline" in page
    assert "gap 1 (0.05 s)" in page
    assert "Near and far in time" not in page


def test_nothing_probed_is_not_a_success(lean: dict[str, Any], tmp_path: Path) -> None:
    lean["probes"] = []
    page = rendered(lean, tmp_path)
    assert 'class="verdict unknown"' in page
    assert "Nothing was probed" in page


def test_pictures_are_inside_with_their_size(page: str) -> None:
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == 1 + 5 + 5 + 3
    sizes = [(image["width"], image["height"]) for image in images]
    assert sizes == [("384", "128"), *[("128", "128")] * 13]
    assert images[3]["alt"] == "two-stream strong: prediction"


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
    assert not (tmp_path / "tables").exists()


def test_malformed_results_are_an_error(lean: dict[str, Any], tmp_path: Path) -> None:
    del lean["verdict"]["success"]
    with pytest.raises(DataError, match=r"verdict.success is missing"):
        write_report(lean, tmp_path)


def test_the_same_results_give_the_same_bytes(lean: dict[str, Any], tmp_path: Path) -> None:
    assert rendered(lean, tmp_path) == rendered(copy.deepcopy(lean), tmp_path)


def test_many_rows_are_in_the_files_only(full: Path, page: str) -> None:
    assert page.count("Below are the first 600") == 1
    assert len((full / "tables" / "probes.csv").read_text().splitlines()) > 1000
