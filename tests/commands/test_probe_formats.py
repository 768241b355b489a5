"""``saccade probe --probes all`` answers on every format, and says what it cannot answer."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from saccade.data.perturbed import SUITE
from saccade.experiments import evidence
from saccade.experiments.views import Sizes
from saccade.report.results import check_results
from saccade.sim.collect import CollectConfig, collect
from tests.conftest import Outcome
from tests.fixtures import droid_raw, egodex
from tests.fixtures.bridge import write_bridge, write_bridge_numpy, write_bridge_raw
from tests.fixtures.libero import write_libero
from tests.fixtures.rlds import (
    Feature,
    edges,
    film,
    image,
    jpegs,
    tensor,
    write_droid,
    write_rlds,
)
from tests.fixtures.video_folder import write_video_folder

Saccade = Callable[..., Outcome]
QUICK = ("--probe.gaps", 1, "--probe.most", 4, "--probe.resamples", 20, "--probe.shares", 0.5, 1)
ALL = {"action", "flow", "order", "clusters", "factors", "curves", "robustness"}
HAND = ("--probe.labels.motion", "hand", "--probe.labels.confidence", 0)
MOTION, CLUSTERS = frozenset({"action", "factors", "curves"}), frozenset({"clusters"})


def write_npz(root: Path) -> Path:
    """Write four trajectories whose states wander."""
    rng = np.random.default_rng(0)
    root.mkdir()
    np.savez_compressed(
        root / "arm.npz",
        observations=rng.integers(0, 256, (4, 6, 24, 24, 3), dtype=np.uint8),
        states=rng.random((4, 6, 7), dtype=np.float32),
    )
    return root / "arm.npz"


def write_generic(root: Path) -> Path:
    """Write what no layout of ours describes: states without names, so nobody knows a motion."""
    keys: dict[str, Feature] = {
        "steps/observation/front": image(16, 24),
        "steps/observation/proprio": tensor("float32", 3),
    }
    episodes = [
        {
            **edges(8),
            "steps/observation/front": jpegs(film(8, 16, 24, number)),
            "steps/observation/proprio": np.random.default_rng(number).normal(size=24),
        }
        for number in range(4)
    ]
    return write_rlds(root, "kitchen", keys, {"train": [episodes]})


def write_egodex(root: Path) -> Path:
    """Write hands that drift: in the fixture all trace one curve, which a split must not share."""
    plain = egodex.make_poses

    def drifting(number: int, length: int) -> dict[str, Any]:
        poses = plain(number, length)
        drift = 0.02 * np.random.default_rng(number).normal(size=3) * np.arange(length)[:, None]
        for name, pose in poses.items():
            if name.startswith(("left", "right")):
                pose[:, :3, 3] += drift
        return poses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(egodex, "make_poses", drifting)
        return egodex.write_egodex(root, episodes=1)


def collect_metaworld(root: Path) -> Path:
    """Collect what the simulator knows the flow of."""
    size: Any = {"size": 32, "truth": 8, "supersample": 1}
    collect(CollectConfig(out=root, tasks=("reach",), episodes=3, stride=16, **size))
    return root


def write_raw(root: Path) -> Path:
    """Write three episodes, all with videos: fewer cannot be split."""
    droid_raw.write_droid_raw(root)
    folder, rows, _ = droid_raw.EPISODES[2]
    droid_raw.write_videos(root / folder / "recordings" / "MP4", 2, rows)
    return root


class Case(NamedTuple):
    """A data set, the options that it needs, and what it cannot be asked."""

    write: Callable[[Path], Path]
    options: tuple[Any, ...] = ()
    without: frozenset[str] = frozenset()
    flow: str = "DIS"


CASES = {
    "droid": Case(write_droid, (), CLUSTERS),
    "droid_raw": Case(write_raw, (), CLUSTERS),
    "bridge": Case(write_bridge, (), CLUSTERS),
    "bridge_raw": Case(write_bridge_raw, (), CLUSTERS),
    "bridge_npy": Case(write_bridge_numpy, (), CLUSTERS),
    "egodex": Case(write_egodex, HAND, CLUSTERS),
    "libero": Case(write_libero),
    "rlds": Case(write_generic, ("--data-options", "fps=5"), MOTION | CLUSTERS),
    "npz": Case(write_npz, ("--probe.gaps", 1, 5, 10), CLUSTERS),
    "videos": Case(write_video_folder, (), MOTION | CLUSTERS),
    "metaworld": Case(collect_metaworld, (), CLUSTERS, "simulator"),
}


def probed(
    saccade: Saccade, encoder: Path, data: Path, out: Path, *options: Any
) -> tuple[Outcome, dict[str, Any]]:
    done = saccade(
        "probe", encoder, "--data", data, "--probes", "all", "--out", out, *QUICK, *options
    )
    assert done.code == 0, done.err
    return done, json.loads((out / "results.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_every_format_is_asked_all_that_it_can_answer(
    name: str,
    saccade: Saccade,
    debug_run: Path,
    tmp_path: Path,
    no_page: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evidence, "Sizes", partial(Sizes, perturbations=SUITE[:2]))
    write, options, without, flow = CASES[name]
    done, results = probed(saccade, debug_run, write(tmp_path / "data"), tmp_path / "out", *options)
    check_results(results)
    assert set(results["budget"]["probe"]["probes"]) == ALL - without
    rows = results["probes"]
    assert {row["probe"] for row in rows} == {"action", "flow", "order", "clusters"} - without
    told = [line for line in results["verdict"]["details"] if line.startswith("Left out")]
    for probe in without:
        assert any(probe in line for line in told), f"nothing says that {probe} is left out"
    for line in told:
        assert line in done.err, "it must be told at once"
        assert line in " ".join(done.out.split()), "and at the end"
    assert ("gap 10: the longest episode" in done.out) == (name == "npz")
    assert {row["target"] for row in rows if row["probe"] == "flow"} == {flow}
    assert {row["condition"] for row in rows} >= {"", "noise 16", "JPEG 20"}
    for row in rows:
        assert row["episodes"] > 1 or row["low"] is row["high"] is None, "one episode has no spread"


def test_a_probe_that_is_named_must_be_answered(
    saccade: Saccade, debug_run: Path, tmp_path: Path
) -> None:
    data, out = write_video_folder(tmp_path / "data"), tmp_path / "out"
    asked = ("probe", debug_run, "--data", data, "--out", out, *QUICK, "--probes")
    for probes, told in (
        (("action",), "no states"),
        (("all", "action"), "no states"),
        (("clusters",), "clusters of tasks or behaviours cannot be asked about"),
        (("order", "curves"), "no states"),
    ):
        done = saccade(*asked, *probes)
        assert (done.code, told in done.err) == (3, True), done.err
        assert not out.exists()


def test_gaps_that_no_episode_reaches_are_left_out_unless_they_are_named(
    saccade: Saccade, debug_run: Path, tmp_path: Path
) -> None:
    data, out = write_npz(tmp_path / "data"), tmp_path / "out"  # six frames; cf. npz above
    asked = ("probe", debug_run, "--data", data, "--out", out, *QUICK, "--probe.gaps", 1, 5, 10)
    done = saccade(*asked, "--probes", "order")
    assert (done.code, "longer than the gap of 10 steps" in done.err) == (3, True), done.err
    done = saccade(*asked, "--probes", "all", "--probe.gaps", 30, 40)
    assert (done.code, "longer than the gap of 30 steps" in done.err) == (3, True), done.err


def test_too_few_episodes_are_told_in_one_sentence(
    saccade: Saccade, debug_run: Path, tmp_path: Path
) -> None:
    data = droid_raw.write_droid_raw(tmp_path / "data")  # one of its three has no videos
    done = saccade("probe", debug_run, "--data", data, "--probes", "all", "--out", tmp_path / "out")
    assert done.code == 3
    assert "2 of 3 episodes have frames of" in done.err
    assert done.err.splitlines()[-1] == (
        "error[3]: 2 episodes are too few for the parts ['test']; collect more"
    )
