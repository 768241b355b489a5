import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.perturbed import SUITE
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.evals.probe import ALL
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments import evidence
from saccade.experiments.probing import Probing, chosen, offline, subject
from saccade.experiments.source import SourceConfig
from saccade.experiments.views import Sizes
from saccade.report.results import check_results, load_results
from tests.conftest import write_lerobot
from tests.models.published.test_catalogue import tiny

PROBE = ProbeConfig(gaps=(2, 1), stride=4, resamples=20)
ROOT = Path(__file__).parents[2]


def probing(data: Path, *encoders: Path, **settings: Any) -> Probing:
    source = SourceConfig(episodes=LeRobotConfig(root=data), **settings)
    return Probing(encoders=tuple(map(str, encoders)), source=source, probe=PROBE)


def test_encoders_are_probed_beside_their_untrained_networks_and_the_floors(
    debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    encoders = debug_run / "encoder", debug_run / "best" / "encoder"
    plan = probing(lerobot, *encoders, held_out_tasks=("pull it",))
    results = plan.run(tmp_path, command="saccade probe")
    assert load_results(tmp_path) == check_results(results)
    assert (tmp_path / "report.html").is_file()
    names = {str(path) for path in encoders}
    assert {r["representation"] for r in results["probes"] if r["kind"] == "method"} == names
    floors = {r["representation"] for r in results["probes"] if r["kind"] == "floor"}
    assert {f"{name}, random init" for name in names} < floors
    assert {"raw pixels", "raw pixel change", "copy"} < floors
    assert results["budget"]["samples"] == 0
    assert [model["runs"] for model in results["models"]] == [[], []]
    assert results["data"]["parts"]["unseen"] == {"episodes": 6, "frames": 96}
    assert results["data"]["label_frame"] == "camera"
    assert "2 steps ahead" in " ".join(results["verdict"]["details"])  # the nearest to 5


def test_five_lines_of_python(
    debug_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snippet of docs/probing.md, run as it stands there; only its names are ours."""
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "probing.md").read_text(), re.S)
    assert len(snippet) == 1
    assert len(snippet[0].strip().splitlines()) <= 5
    (tmp_path / "runs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "runs" / "first").symlink_to(debug_run)
    write_lerobot(tmp_path / "data" / "metaworld", ("push it", "pull it"), episodes=3)
    tiny(monkeypatch, "dinov2", tmp_path / "tiny")
    code = snippet[0].replace("dinov2-base", f"tiny={tmp_path / 'tiny'}")
    small = partial(ProbeConfig, gaps=(4,), most=6, resamples=20)  # for speed
    monkeypatch.setattr("saccade.experiments.probing.ProbeConfig", small)
    monkeypatch.setattr(evidence, "Sizes", partial(Sizes, perturbations=SUITE[:1]))
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(compile(code, "docs/probing.md", "exec"), known)
    results = known["results"]
    assert load_results(tmp_path / "runs" / "probe") == check_results(results)
    assert set(results["budget"]["probe"]["probes"]) == set(ALL)
    assert {row["representation"] for row in results["probes"] if row["kind"] == "method"} == {
        "runs/first", "tiny (concatenation)", "tiny (difference)",
    }  # fmt: skip
    readings = {each["representation"]: each["method"] for each in results["projections"]}
    assert {"runs/first", "runs/first, random init", "tiny (difference)"} <= readings.keys()
    assert readings.keys() == {each["representation"] for each in results["diagnostics"]}
    assert readings.keys() < {each["representation"] for each in results["confusions"]}
    drawn = results["flow_pictures"]
    assert {"first frame", "last frame", "true (DIS)", "tiny (difference)"} <= drawn.keys()
    for path in drawn.values():
        assert (tmp_path / "runs" / "probe" / path).is_file()


def test_a_field_that_no_source_has_is_refused(lerobot: Path) -> None:
    with pytest.raises(ConfigError, match=r"no fields \['kamera'\]"):
        Probing.of("x", data=lerobot, kamera="front")
    assert Probing.of("x", data=lerobot, camera="front").source.camera == "front"
    with pytest.raises(DataError):
        Probing.of("x", data=lerobot / "none")


def test_all_may_leave_out_what_nobody_named() -> None:
    config, optional = chosen(("all", "order"), ProbeConfig())
    assert config.probes == ALL
    assert set(optional) == set(ALL) - {"order"}
    assert chosen(("order", "action"), ProbeConfig())[1] == ()
    assert chosen(("order", "action"), ProbeConfig())[0].probes == ("action", "order")
    assert chosen((), ProbeConfig(probes=("flow",))) == (ProbeConfig(probes=("flow",)), ())


def test_the_untrained_twin_has_the_shape_but_not_the_weights(debug_run: Path) -> None:
    given = str(debug_run / "encoder")
    first, again = subject(given), subject(given)
    trained, twin = first.trained[0].state_dict(), first.untrained[0].state_dict()
    assert {k: v.shape for k, v in twin.items()} == {k: v.shape for k, v in trained.items()}
    assert not torch.equal(twin["streams.m.to_token.weight"], trained["streams.m.to_token.weight"])
    for name, value in again.untrained[0].state_dict().items():
        assert torch.equal(value, twin[name]), "the floor must not differ from call to call"


def test_random_weights_are_a_floor_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, "dinov2", tmp_path)
    floor, trained = subject("tiny=random"), subject(f"tiny={tmp_path}")
    assert (dict(floor.trained), floor.weights, floor.name) == ({}, "random", "tiny")
    assert any("a floor" in note for note in floor.notes)
    assert trained.trained.keys() == trained.untrained.keys() == {0}
    own, drawn = trained.untrained[0].state_dict(), floor.untrained[0].state_dict()
    assert all(torch.equal(own[name], drawn[name]) for name in own)


def test_one_name_with_several_weights_stays_apart(
    tmp_path: Path, lerobot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(monkeypatch, "dinov2", tmp_path)
    given = "tiny=random", f"tiny={tmp_path}"
    plan = Probing.of(*given, data=lerobot)
    assert [each.name for each in plan.subjects()] == list(given)
    assert [each.name for each in Probing.of(given[1], data=lerobot).subjects()] == ["tiny"]


def test_weights_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(monkeypatch, "dinov2", tmp_path / "tiny")
    assert offline(("tiny", "some/run"), None) == ("tiny", "some/run")
    found = (f"tiny={tmp_path / 'tiny'}", "some/run")
    assert offline(("tiny", "some/run"), tmp_path) == found, "in a folder by its name"
    assert offline(("tiny", "some/run"), tmp_path / "tiny") == found, "the only one's own folder"
    (tmp_path / "r3m-18.pt").touch()
    assert offline(("r3m-18", "tiny"), tmp_path) == (f"r3m-18={tmp_path / 'r3m-18.pt'}", found[0])
    with pytest.raises(CheckpointError, match="neither a folder dinov2-base nor a file"):
        offline(("dinov2-base",), tmp_path)


@pytest.mark.parametrize("times", [0, 2])
def test_encoders_are_named_once(
    debug_run: Path, lerobot: Path, tmp_path: Path, times: int
) -> None:
    with pytest.raises(ConfigError, match="each once"):
        probing(lerobot, *[debug_run / "encoder"] * times).run(tmp_path, command="")


def test_what_is_missing_is_named(debug_run: Path, lerobot: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing holds no config\.json"):
        probing(lerobot, tmp_path / "nothing").run(tmp_path, command="")
    with pytest.raises(DataError, match=r"none is no folder"):
        probing(tmp_path / "none", debug_run / "encoder").run(tmp_path, command="")
