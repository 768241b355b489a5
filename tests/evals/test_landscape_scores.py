import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.evals.landscape import Grid, Landscape, grid, landscapes, with_other_goals
from saccade.evals.landscape_scores import compare, measure, summarise
from saccade.evals.planning import Moment, moments
from tests.evals.toy_arm import FRANKA, REST, ToyWorld

XY = grid(("x", "y"), 0.1, 5)  # -0.1, -0.05, 0, 0.05, 0.1


def landscape(
    energy: np.ndarray | None = None,
    truth: tuple[float, ...] = (0.05, 0.0, 0.03, 0, 0, 0, 0),
    where: Grid = XY,
    episode: int = 0,
    at: float = 0.25,
) -> Landscape:
    if energy is None:
        energy = np.arange(25.0).reshape(5, 5) / 10 + 0.1  # lowest at (-0.1, -0.1)
    return Landscape(
        episode=episode,
        start=0,
        grid=where,
        names=FRANKA,
        truth=np.array(truth, np.float64),
        horizon=1,
        metric="l1",
        energy=energy,
        at_truth=0.2,
        at_projection=at,
        at_zero=0.5,
        no_change=0.6,
    )


def test_scores_by_hand() -> None:
    found = measure(landscape())
    assert found["distance"] == pytest.approx(np.sqrt(0.15**2 + 0.1**2 + 0.03**2))
    assert found["in_slice_position"] == pytest.approx(np.sqrt(0.15**2 + 0.1**2))
    assert found["in_slice_rotation"] is None
    assert found["nearest_cell"] == pytest.approx(0.03)
    assert found["no_change"] == pytest.approx(np.sqrt(0.05**2 + 0.03**2))
    assert found["rank"] == pytest.approx(2 / 25)  # 0.1 and 0.2 are lower
    assert found["sharpness"] == pytest.approx(2.4 / 1.3)
    assert found["gap"] == pytest.approx(0.15)
    assert found["relative_gap"] == pytest.approx(0.15 / 2.4)
    assert found["on_edge"] == 1
    assert found["energy_at_truth"] == 0.2
    assert found["energy_at_zero"] == 0.5
    assert found["energy_no_change"] == 0.6
    assert found["refined"] is None  # a plane has no minimum


def test_on_a_slice_only_what_varies_counts() -> None:
    found = measure(landscape(where=replace(XY, others="truth")))
    assert found["distance"] == pytest.approx(np.sqrt(0.15**2 + 0.1**2))
    assert found["nearest_cell"] == pytest.approx(0, abs=1e-12)
    assert found["no_change"] == pytest.approx(0.05)


def test_kinds_of_a_mixed_slice_are_kept_apart() -> None:
    mixed = grid(("z", "yaw", "gripper"), (0.1, 0.2, 1.0), 2, "truth")
    energy = np.ones((2, 2, 2))
    energy[1, 0, 1] = 0.5
    found = measure(landscape(energy, (9.0, 9.0, 0.08, 0, 0, 0.1, 0.75), mixed))
    assert found["in_slice_position"] == pytest.approx(0.02)
    assert found["in_slice_rotation"] == pytest.approx(0.3)
    assert found["in_slice_gripper"] == pytest.approx(0.25)
    assert found["distance"] == pytest.approx(0.02)
    assert found["convex"] is None  # two values have no curvature


def test_a_slice_of_rotations_has_no_metres() -> None:
    turned = measure(landscape(where=grid(("roll", "yaw"), 0.1, 5)))
    assert turned["distance"] is None
    assert turned["no_change"] is None
    assert turned["in_slice_rotation"] == pytest.approx(np.sqrt(0.02))


def test_a_flat_landscape_is_as_far_from_the_truth_as_its_cells_are() -> None:
    found = measure(landscape(np.full((5, 5), 0.25), where=replace(XY, others="truth")))
    cells = np.hypot(XY.cells[:, 0] - 0.05, XY.cells[:, 1])
    assert found["distance"] == pytest.approx(cells.mean())
    assert (found["rank"], found["sharpness"], found["relative_gap"]) == (0.5, 0, 0)
    assert found["on_edge"] == pytest.approx(16 / 25)


def test_the_quadratic_refines_the_minimum() -> None:
    x, y = np.meshgrid(*XY.values, indexing="ij")
    energy = 3 * (x - 0.06) ** 2 + 5 * (y + 0.01) ** 2
    found = measure(landscape(energy, (0.06, -0.01, 0, 0, 0, 0, 0)))
    assert found["distance"] == pytest.approx(np.hypot(0.01, 0.01))
    assert found["refined"] == pytest.approx(0, abs=1e-9)
    assert found["curvature_least"] == pytest.approx(6)
    assert found["curvature_most"] == pytest.approx(10)
    assert (found["convex"], found["on_edge"]) == (1, 0)


def test_the_curvature_of_a_linear_world_is_known() -> None:
    class Linear(ToyWorld):
        def see(self, state: torch.Tensor) -> torch.Tensor:
            return (state @ self.weight).unflatten(-1, self.shape)

    model = Linear().double()
    rest = REST.double()
    action = torch.tensor([[0.036, -0.001, 0.036, 0, 0, 0, 0]]).double()
    states = torch.cat([rest[None], rest + action])
    (place,) = moments(model.see(states).detach(), states, action, 0)
    (found,) = landscapes(model, place, [grid()], "l2")
    weight = model.weight[:3].detach().numpy()
    expected = np.linalg.eigvalsh(2 * weight @ weight.T / weight.shape[1])
    scores = measure(found)
    assert scores["curvature_least"] == pytest.approx(expected[0], rel=1e-6)
    assert scores["curvature_most"] == pytest.approx(expected[-1], rel=1e-6)
    assert scores["refined"] == pytest.approx(0, abs=1e-9)
    assert scores["distance"] == pytest.approx(np.linalg.norm([0.0015, 0.001, 0.0015]))


def test_a_mean_over_episodes_says_what_was_in_range() -> None:
    inside = landscape(truth=(0.1, 0.1, 0, 0, 0, 0, 0), episode=1)
    outside = landscape(truth=(0.2, 0.1, 0, 0, 0, 0, 0), episode=2)
    also = landscape(truth=(-0.1, -0.1, 0, 0, 0, 0, 0), episode=1)
    found = summarise([inside, outside, also], resamples=50)
    assert (found["episodes"], found["moments"]) == (2, 3)
    counts = {
        k: (found[k]["episodes"], found[k]["moments"]) for k in ("all", "in_range", "out_of_range")
    }
    assert counts == {"all": (2, 3), "in_range": (1, 2), "out_of_range": (1, 1)}
    near, far = np.hypot(0.2, 0.2), np.hypot(0.3, 0.2)
    assert found["in_range"]["scores"]["distance"]["value"] == pytest.approx(near / 2)
    assert found["in_range"]["scores"]["distance"]["low"] is None  # one episode bounds nothing
    assert found["out_of_range"]["scores"]["distance"]["value"] == pytest.approx(far)
    assert found["all"]["scores"]["distance"]["value"] == pytest.approx((near + far) / 3)
    assert found["resolution"]["spacing"] == {"x": 0.05, "y": 0.05}
    assert found["resolution"]["worst_within"] == pytest.approx(np.hypot(0.05, 0.05) / 2)
    json.dumps(found, allow_nan=False)


def test_the_floors_by_hand() -> None:
    truths = [(0.1, 0.0), (0.0, 0.1)]
    made = [
        landscape(truth=(*truth, 0, 0, 0, 0, 0), episode=i, where=replace(XY, others="truth"))
        for i, truth in enumerate(truths)
    ]
    made[0].energy[4, 2] = 0  # at the truth of the first
    found = summarise(made, resamples=50)["all"]
    second = np.hypot(0.1, 0.2)  # its lowest is at (-0.1, -0.1)
    assert found["scores"]["distance"]["value"] == pytest.approx(second / 2)
    assert found["better_by"]["no_change"]["value"] == pytest.approx(0.1 - second / 2)
    foreign = (np.hypot(0.1, 0.1) + np.hypot(0.2, 0.1)) / 2
    assert found["scores"]["shuffled_actions"]["value"] == pytest.approx(foreign)
    assert found["better_by"]["shuffled_actions"]["value"] == pytest.approx(foreign - second / 2)


def test_one_episode_has_no_foreign_actions() -> None:
    found = summarise([landscape(), landscape()], resamples=10)["all"]
    assert found["scores"]["shuffled_actions"]["value"] is None


def episodes(model: ToyWorld, count: int = 12) -> list[Moment]:
    rng = np.random.default_rng(1)
    made: list[Moment] = []
    for episode in range(count):
        action = np.append(rng.uniform(-0.06, 0.06, 3), [0, 0, 0, rng.uniform(-0.3, 0.3)])
        step = torch.from_numpy(action).float()[None]
        states = torch.cat([REST[None], model.moved(REST, step)])
        made += moments(model.see(states).detach(), states, step, episode)
    return made


def test_a_right_model_beats_its_floors_and_a_control_does_not() -> None:
    model = ToyWorld()
    places = episodes(model)

    def summary(chosen: list[Moment]) -> dict:
        return summarise([landscapes(model, m, [grid()])[0] for m in chosen], resamples=200)["all"]

    right, control = summary(places), summary(with_other_goals(places))
    assert right["scores"]["distance"]["high"] < right["scores"]["no_change"]["low"]
    assert right["scores"]["distance"]["high"] < right["scores"]["shuffled_actions"]["low"]
    assert right["better_by"]["no_change"]["low"] > 0
    assert right["scores"]["rank"]["high"] < 0.05
    assert control["scores"]["rank"]["low"] > 0.15
    assert control["better_by"]["shuffled_actions"]["high"] < 0.03


def test_models_are_compared_in_pairs() -> None:
    base = [landscape(episode=i, at=0.35) for i in range(4)]  # three are lower
    better = [landscape(episode=i, at=at) for i, at in enumerate((0.05, 0.15, 0.25, 0.35))]
    found = compare(base, better, resamples=100)
    rank = found["scores"]["rank"]
    change = np.array([-3, -2, -1, 0]) / 25
    assert (found["episodes"], found["moments"]) == (4, 4)
    assert rank["base"] == pytest.approx(3 / 25)
    assert rank["other"] == pytest.approx(1.5 / 25)
    assert rank["value"] == pytest.approx(change.mean())
    assert rank["low"] <= rank["value"] <= rank["high"]
    assert rank["d"] == pytest.approx(change.mean() / change.std(ddof=1))
    assert rank["wins"] == 3.5 / 4
    assert found["scores"]["gap"]["wins"] is None  # of energies on two scales
    assert found["scores"]["sharpness"]["d"] is None  # no spread
    assert found["scores"]["sharpness"]["wins"] == 0.5
    assert found["scores"]["refined"]["value"] is None
    json.dumps(found, allow_nan=False)


def test_more_is_better_for_sharpness() -> None:
    base, sharper = [landscape()], [landscape(np.arange(25.0).reshape(5, 5) + 0.01)]
    assert compare(base, sharper, resamples=10)["scores"]["sharpness"]["wins"] == 1
    assert compare(sharper, base, resamples=10)["scores"]["sharpness"]["wins"] == 0


def test_only_the_same_moments_are_compared() -> None:
    with pytest.raises(ConfigError, match="same moments"):
        compare([landscape()], [landscape(episode=1)])
    with pytest.raises(ConfigError, match="same moments"):
        compare([landscape()], [landscape(truth=(0.0, 0, 0, 0, 0, 0, 0))])
    with pytest.raises(ConfigError, match="same moments"):
        compare([landscape()], [landscape(), landscape()])


def test_only_landscapes_of_one_kind_are_averaged() -> None:
    with pytest.raises(ConfigError, match="apart"):
        summarise([landscape(), landscape(where=XY.widened(2.0))])
    with pytest.raises(ConfigError, match="apart"):
        summarise([landscape(), replace(landscape(), metric="l2")])
    with pytest.raises(DataError, match="no landscape"):
        summarise([])
