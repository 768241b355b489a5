import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from saccade.errors import ConfigError, DataError
from saccade.evals.calibration import Calibrated, Calibration, fit, infer_motion
from saccade.evals.planners import CemConfig, Limits
from saccade.evals.planning import Moment, moments, plan_all, summarise
from tests.evals.toy_arm import FRANKA, REST, SAWYER, ToyWorld

TURN = Rotation.from_euler("xyz", [10, -20, 35], degrees=True).as_matrix()
PLANNER = CemConfig(samples=80, iterations=6)


def motion(n: int = 40, axes: int = 3, seed: int = 0) -> np.ndarray:
    moves = np.random.default_rng(seed).uniform(-0.05, 0.05, (n, 3))
    moves[:, axes:] = 0
    return moves


def noisy(turn: np.ndarray, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inferred and true motion with ``true = turn @ inferred`` but for noise."""
    true = motion(seed=seed)
    return true @ turn + np.random.default_rng((seed, 1)).normal(0, noise, true.shape), true


def places(model: ToyWorld, episodes: range, steps: int = 8) -> list[Moment]:
    """What a robot did, and what could be seen: the model's encoder is right, its idea is not."""
    found: list[Moment] = []
    for episode in episodes:
        action = torch.zeros(steps, 7)
        action[:, :3] = torch.from_numpy(motion(steps, seed=episode))
        state = torch.cat([REST[None], REST + action.cumsum(0)])
        found += moments(model.see(state).detach(), state, action, episode)
    return found


@pytest.mark.parametrize("axes", [2, 3])
def test_an_exact_rotation_is_recovered_from_motion_in_a_plane_too(axes: int) -> None:
    true = motion(axes=axes)
    found = fit(true @ TURN, true, np.arange(40) // 8)
    np.testing.assert_allclose(found.matrix, TURN, atol=1e-12)
    angle = np.degrees(Rotation.from_matrix(TURN).magnitude())
    assert found.angle == pytest.approx(angle)
    assert found.residual == pytest.approx(0, abs=1e-12)
    assert found.condition == pytest.approx(1)
    assert (found.scale, found.moves, found.episodes) == (1, 40, 5)
    assert found.before == pytest.approx(np.sqrt(((true - true @ TURN) ** 2).sum(1).mean()))


def test_the_fit_is_the_best_rotation() -> None:
    inferred, true = noisy(TURN, 0.02)
    found = fit(inferred, true, np.arange(40))
    expected = Rotation.align_vectors(true, inferred)[0].as_matrix()
    np.testing.assert_allclose(found.matrix, expected, atol=1e-9)
    error = np.sqrt(((true - inferred @ expected.T) ** 2).sum(1).mean())
    assert found.residual == pytest.approx(error)
    assert found.residual < found.before


def test_the_scale_is_fitted_only_when_asked_for() -> None:
    true = motion()
    inferred = true @ TURN / 2
    assert fit(inferred, true, np.arange(40)).scale == 1
    assert fit(inferred, true, np.arange(40), scale=True).scale == pytest.approx(2)
    assert fit(inferred, true, np.arange(40), scale=True).residual == pytest.approx(0, abs=1e-12)


def test_the_condition_number_tells_a_shear_from_a_rotation() -> None:
    true = motion()
    stretch = np.diag([1.5, 1.0, 1.0])
    assert fit(true @ np.linalg.inv(stretch), true, np.arange(40)).condition == pytest.approx(1.5)


def test_the_interval_covers_the_angle_as_often_as_it_says() -> None:
    angle = np.degrees(Rotation.from_matrix(TURN).magnitude())
    covered = []
    for seed in range(60):
        found = fit(*noisy(TURN, 0.02, seed), np.arange(40), resamples=200, seed=seed)
        covered.append(found.angle_low <= angle <= found.angle_high)
        assert found.angle_low <= found.angle <= found.angle_high
    assert np.mean(covered) > 0.85


def test_less_noise_makes_it_surer() -> None:
    rough, fine = (fit(*noisy(TURN, noise), np.arange(40)) for noise in (0.02, 0.002))
    assert 0 < fine.uncertainty < rough.uncertainty / 3


def test_a_fit_is_a_function_of_its_seed() -> None:
    inferred, true = noisy(TURN, 0.02)
    once, again = (fit(inferred, true, np.arange(40) // 8, seed=3) for _ in range(2))
    assert once == again


@pytest.mark.parametrize("axes", [0, 1])
def test_motion_along_one_line_is_refused(axes: int) -> None:
    true = motion(axes=axes)
    with pytest.raises(DataError, match="two directions"):
        fit(true @ TURN, true, np.arange(40))


def test_other_motion_that_says_nothing_is_refused() -> None:
    true = motion()
    with pytest.raises(DataError, match="7 moves are too few"):
        fit(true[:7], true[:7], np.arange(7))
    with pytest.raises(DataError, match="inferred motion is not finite"):
        fit(true * np.nan, true, np.arange(40))
    with pytest.raises(DataError, match="mirror image"):
        fit(true * [-1, 1, 1], true, np.arange(40))


def calibration() -> Calibration:
    return fit(*noisy(TURN, 0.005), np.arange(40) // 8, scale=True)


def test_actions_are_turned_both_ways() -> None:
    found = fit(motion() @ TURN / 2, motion(), np.arange(40), scale=True)
    action = torch.tensor([[0.01, 0.02, -0.03, 0.3, -0.2, 0.1, 0.7]], dtype=torch.float64)
    turned = found.to_robot(action, FRANKA)
    np.testing.assert_allclose(turned[0, :3], 2 * TURN @ action[0, :3].numpy(), atol=1e-9)
    rotation = Rotation.from_euler("xyz", action[0, 3:6].numpy()).as_rotvec()
    np.testing.assert_allclose(
        Rotation.from_euler("xyz", turned[0, 3:6].numpy()).as_rotvec(), TURN @ rotation, atol=1e-9
    )
    assert turned[0, 6] == action[0, 6]
    torch.testing.assert_close(found.to_model(turned, FRANKA), action)
    vector = found.to_robot(action[:, :6], ("x", "y", "z", "rx", "ry", "rz"))
    np.testing.assert_allclose(vector[0, 3:], TURN @ action[0, 3:6].numpy(), atol=1e-9)
    four = found.to_robot(action[:, [0, 1, 2, 6]], SAWYER)
    torch.testing.assert_close(four, turned[:, [0, 1, 2, 6]])
    with pytest.raises(ConfigError, match="x, y, z"):
        found.to_robot(action[:, :2], ("x", "y"))


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    found = calibration()
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps({**asdict(calibration()), "rotation": [[1, 0, 0], [0, 1, 0]]}),
        json.dumps({**asdict(calibration()), "rotation": np.diag([1, 1, -1]).tolist()}),
        json.dumps({**asdict(calibration()), "rotation": np.diag([2, 1, 1]).tolist()}),
        json.dumps({**asdict(calibration()), "scale": 0}),
        json.dumps({**asdict(calibration()), "more": 0}),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"calibration\.json .*calibrate again"):
        Calibration.load(path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.json"):
        Calibration.load(tmp_path / "no.json")


def test_calibrating_a_turned_world_recovers_the_turn_and_mends_planning() -> None:
    """The model moves by ``turn @ action``: it infers ``turn^T true``, so R is ``turn``."""
    turned = ToyWorld(turn=torch.from_numpy(TURN.astype(np.float32)))
    inferred, true, episode = infer_motion(turned, PLANNER, places(turned, range(4)))
    found = fit(inferred, true, episode)
    angle = np.degrees(Rotation.from_matrix(TURN).magnitude())
    assert found.angle_low - 0.1 <= angle <= found.angle_high + 0.1
    assert found.uncertainty < 5
    assert np.degrees(Rotation.from_matrix(found.matrix @ TURN.T).magnitude()) < 3
    held_out = places(turned, range(4, 7), steps=4)
    before, after = (
        summarise(plan_all(model, PLANNER, held_out, torch.zeros(7)), resamples=100)["scores"]
        for model in (turned, Calibrated(turned, found))
    )
    assert after["planned"]["xyz"]["high"] < before["planned"]["xyz"]["low"] / 2
    assert after["planned"]["direction"]["value"] > 0.97


def test_a_calibrated_model_takes_the_robots_actions() -> None:
    turn = torch.from_numpy(TURN.astype(np.float32))
    straight, turned = ToyWorld(), ToyWorld(turn=turn)
    found = replace(calibration(), rotation=tuple(map(tuple, TURN.tolist())), scale=1.0)
    model = Calibrated(turned, found)
    assert (model.action_names, model.step_seconds) == (FRANKA, 0.25)
    action = torch.zeros(5, 2, 7)
    action[..., :3] = torch.from_numpy(motion(10).astype(np.float32)).unflatten(0, (5, 2))
    features = straight.see(REST)[None]
    context = model.look(features, REST[None], action[0, :0])
    expected = straight.imagine(context, action)
    torch.testing.assert_close(model.imagine(context, action), expected, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(model.moved(REST, action[0, 0]), REST + action[0, 0])
    video = torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8)
    assert torch.equal(model.encode(video), turned.encode(video))
    assert model.candidate_bytes(context, 3) == turned.candidate_bytes(context, 3)


def test_a_box_narrower_than_the_motion_is_refused() -> None:
    model = ToyWorld()
    narrow = replace(PLANNER, limits=Limits(position=0.02))
    with pytest.raises(DataError, match="edge of the planner's box"):
        infer_motion(model, narrow, places(model, range(1)))


def test_no_motion_is_refused() -> None:
    with pytest.raises(DataError, match="no motion"):
        infer_motion(ToyWorld(), PLANNER, [])
