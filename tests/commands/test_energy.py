import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModelConfig
from tests.conftest import Outcome
from tests.fixtures.world_models import write_world_model

Saccade = Callable[..., Outcome]
QUICK = ("--axes", "x", "--steps", 3, "--slices", "--sweep-steps", 0, "--widen", 1)
SMALL = ("--episodes", 2, "--per-episode", 1, "--drawn", 1, "--resamples", 20, "--part", "all")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energy")
    write_world_model(folder)
    return folder


def asked(root: Path, data: Path, out: Path) -> tuple[object, ...]:
    return ("energy", "--model", root / "model", "--data", data, "--out", out)


def test_the_table_and_the_page_show_base_and_adapters(
    saccade: Saccade, root: Path, lerobot: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    adapters = ("--adapters", root / "step_000100", root / "step_000200")
    command = (*asked(root, lerobot, out), *adapters, *QUICK, *SMALL, "--device", "cpu")
    done = saccade(*command)
    assert done.code == 0, done.err
    for told in ("base", "step_000100", "step_000200", "standing still", "2 moments of 2 episodes"):
        assert told in done.out, told
    assert "Verdict: No success" in done.out
    assert done.out.rstrip().endswith(f"report: {out / 'report.html'}")
    results = json.loads((out / "results.json").read_text())
    assert results["commands"][0].startswith("saccade energy --model ")
    assert results["data"]["path"] == str(lerobot)

    again = saccade(*command)
    assert again.code == 2
    assert f"{out} holds results already; --overwrite" in again.err

    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    rebuilt = saccade("report", out)
    assert (rebuilt.code, rebuilt.out) == (0, f"{out / 'report.html'}\n")
    assert (out / "report.html").read_bytes() == page


def test_the_franka_pair_of_the_official_notebook(
    saccade: Saccade, shared_data: Path, tmp_path: Path
) -> None:
    """The contract of V-JEPA 2-AC in small: the same axes, crop, gripper, rate and 125 actions."""
    encoder = VJepa2Config(
        image_size=32, num_frames=1, patch=8, dim=48, depth=1, heads=2, mlp=96, frames="each"
    )
    predictor = ActionPredictorConfig(grid=(4, 4), feature_dim=48, dim=48, depth=2, heads=2, mlp=96)
    world = ActionWorldModelConfig(encoder=encoder, predictor=predictor, step_seconds=0.25)
    world.build().save_pretrained(tmp_path / "model")
    pair, out = shared_data / "vjepa2_ac" / "franka_example_traj.npz", tmp_path / "out"
    done = saccade(*asked(tmp_path, pair, out), "--part", "all", "--episodes", 1, "--drawn", 1)
    assert done.code == 0, done.err
    assert "1 moments of 1 episodes" in done.out
    results = json.loads((out / "results.json").read_text())
    (drawn,) = results["models"][0]["drawn"]
    landscape = drawn["main"]
    assert len(landscape["energy"]) == 125
    expected = [0.0924, 0.0310, 0.0843, -0.0172, -0.0100, 0.0, 0.0]
    assert landscape["truth"] == pytest.approx(expected, abs=1e-4)
    assert {alarm["name"] for alarm in results["alarms"]} >= {"narrow grid", "one episode"}
    assert results["verdict"]["success"] is False


def test_a_dry_run_does_nothing(
    saccade: Saccade, root: Path, lerobot: Path, tmp_path: Path
) -> None:
    done = saccade(*asked(root, lerobot, tmp_path / "out"), "--dry-run")
    assert done.code == 0, done.err
    assert "main grid: x,y,z ±0.075/0.075/0.075 (125 actions)" in done.out
    assert "in all, each 1 step ahead" in done.out
    assert "memory: at most 2 GB" in done.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--crop", "ac"), 2, "frames were cropped by 'ac'; the model was trained on 'square'"),
        (("--axes", "yaw"), 2, "the grid varies ['yaw']; the model's actions are"),
        (("--slices", "x"), 2, "a slice varies two different axes, not 'x'"),
        (("--horizon", 99), 3, "no episode is as long as a moment"),
        (("--adapters", "nowhere"), 4, "nowhere holds no saccade.json"),
        (("--model", "vjepa2-ac-vitg.pt"), 4, "vjepa2-ac-vitg.pt (11.7 GB): get it with `curl"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    saccade: Saccade,
    root: Path,
    lerobot: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    code: int,
    told: str,
) -> None:
    done = saccade(*asked(root, lerobot, tmp_path / "out"), *SMALL, *options)
    assert done.code == code
    assert told in done.err
    assert done.err.splitlines()[-1].startswith(f"error[{code}]: ")
    assert not (tmp_path / "out").exists()


def test_other_results_are_never_deleted(
    saccade: Saccade, root: Path, lerobot: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    done = saccade(*asked(root, lerobot, tmp_path), "--overwrite")
    assert done.code == 2
    assert (tmp_path / "thesis.tex").exists()


def test_results_of_an_unknown_kind_are_named(saccade: Saccade, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"kind": "poem"}')
    done = saccade("report", tmp_path)
    assert done.code == 3
    assert "kind is 'poem', expected one of ['landscape', 'planning', 'success']" in done.err
    shutil.rmtree(tmp_path)
