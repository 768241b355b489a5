import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade import poses
from saccade.errors import ConfigError, DataError
from saccade.evals.landscape import (
    Grid,
    Landscape,
    backwards,
    evaluating,
    grid,
    kind_of,
    landscapes,
    with_other_goals,
)
from saccade.evals.planning import Moment, moments
from saccade.models.vjepa2.encoder import VJepa2Config
from saccade.models.vjepa2.predictor import ActionPredictorConfig
from saccade.models.world_model import ActionWorldModel, ActionWorldModelConfig
from saccade.types import Context
from tests.evals.toy_arm import FRANKA, REST, SAWYER, ToyWorld
from tests.fixtures.vjepa2 import landscape as official
from tests.fixtures.vjepa2.predictor import CASES, inputs, weights

TRUTH = np.array([0.0375, -0.0375, 0.01, 0.02, -0.03, 0.05, 0.1])


def moment_of(model: ToyWorld, action: torch.Tensor, episode: int = 0) -> Moment:
    """One step (or several) from rest, as this model believes it."""
    state = [REST]
    for step in action:
        state.append(model.moved(state[-1], step))
    states = torch.stack(state)
    features = model.see(states).detach()
    (found,) = moments(features, states, action, episode, horizon=len(action))
    return found


def moment(model: ToyWorld, truth: np.ndarray = TRUTH, episode: int = 0) -> Moment:
    return moment_of(model, torch.from_numpy(truth).float()[None], episode)


def test_the_official_grid() -> None:
    actions = grid().candidates(TRUTH, FRANKA)
    expected = [
        [x, y, z, 0, 0, 0, 0]
        for x in (-0.075, -0.0375, 0, 0.0375, 0.075)
        for y in (-0.075, -0.0375, 0, 0.0375, 0.075)
        for z in (-0.075, -0.0375, 0, 0.0375, 0.075)
    ]
    np.testing.assert_allclose(actions, expected, atol=1e-15)
    assert grid() == Grid()


def test_a_slice_goes_through_the_truth() -> None:
    plane = grid(("gripper", "yaw"), steps=(3, 2), others="truth")
    actions = plane.candidates(TRUTH, FRANKA)
    assert actions[:, :5].tolist() == [TRUTH[:5].tolist()] * 6
    assert actions[:, 6].tolist() == [-0.75, -0.75, 0, 0, 0.75, 0.75]
    assert actions[:, 5].tolist() == [-0.15, 0.15] * 3
    assert plane.projected(TRUTH, FRANKA).tolist() == TRUTH.tolist()
    assert grid(("x", "yaw")).projected(TRUTH, FRANKA).tolist() == [0.0375, 0, 0, 0, 0, 0.05, 0]


def test_spacing_and_widening() -> None:
    narrow = grid(("x", "roll"), (0.1, 0.2), (5, 3), "truth")
    assert narrow.spacing == pytest.approx((0.05, 0.2))
    assert narrow.widened(2.0) == grid(("x", "roll"), (0.2, 0.4), (5, 3), "truth")


@pytest.mark.parametrize(
    ("truth", "inside"), [(0.075, True), (-0.0750000001, True), (0.0751, False)]
)
def test_range_concerns_the_varied_axes_with_their_borders(truth: float, inside: bool) -> None:
    action = np.array([truth, 0.0, 9.0, 0, 0, 0, 0])
    assert grid(("x", "y")).covers(action, FRANKA) == inside


def test_kinds_of_axes() -> None:
    names = ("left.x", "rz", "right.gripper", "pitch", "wheel")
    assert [kind_of(n) for n in names] == ["position", "rotation", "gripper", "rotation", "other"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("x", "x"), "half_width": 0.1}, "different axes"),
        ({"names": ()}, "different axes"),
        ({"half_width": (0.1, 0.1)}, "for each"),
        ({"half_width": 0.0}, "above 0"),
        ({"half_width": float("nan")}, "above 0"),
        ({"steps": 1}, "at least 2"),
        ({"names": ("wheel",)}, r"\['wheel'\] are of no known unit"),
    ],
)
def test_impossible_grids_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grid(**options)


def test_an_axis_that_the_model_lacks_is_refused() -> None:
    model = ToyWorld(SAWYER)
    here = REST[[0, 1, 2, 6]]
    features = model.see(torch.stack([here, here])).detach()
    (place,) = moments(features, torch.stack([here, here]), torch.zeros(1, 4), 0)
    with pytest.raises(ConfigError, match=r"varies \['yaw'\].*'gripper'"):
        landscapes(model, place, [grid(("x", "yaw"))])


def test_the_minimum_is_where_the_truth_is() -> None:
    model = ToyWorld()
    pairs = [("x", "y"), ("yaw", "gripper"), ("z",), ("roll", "pitch")]
    found = landscapes(
        model, moment(model), [grid(pair, steps=31, others="truth") for pair in pairs]
    )
    for landscape in found:
        places = landscape.grid.places(FRANKA)
        (lowest,) = landscape.lowest
        assert (np.abs(lowest - TRUTH[places]) <= np.array(landscape.grid.spacing) / 2 + 1e-9).all()
        assert landscape.energy.shape == landscape.grid.steps


def test_energies_by_hand() -> None:
    model = ToyWorld().eval()
    place = moment(model)
    l1, l2 = (
        landscapes(model, place, [grid(("y", "x"), 0.05, (2, 3))], metric)[0]
        for metric in ("l1", "l2")
    )
    action = torch.zeros(7)
    action[0], action[1] = 0.05, -0.05
    apart = (model.see(model.moved(REST, action)) - place.goal).detach()
    assert l1.energy[0, 2] == pytest.approx(float(apart.abs().mean()))
    assert l2.energy[0, 2] == pytest.approx(float(apart.square().mean()))
    assert l1.at_truth == pytest.approx(0, abs=1e-6)
    still = (model.see(REST) - place.goal).detach()
    assert l1.no_change == pytest.approx(float(still.abs().mean()))
    assert l2.no_change == pytest.approx(float(still.square().mean()))
    assert l1.at_zero == pytest.approx(l1.no_change)
    near = torch.tensor([TRUTH[0], TRUTH[1], 0, 0, 0, 0, 0]).float()
    apart = (model.see(model.moved(REST, near)) - place.goal).detach()
    assert l1.at_projection == pytest.approx(float(apart.abs().mean()))


def test_a_horizon_repeats_one_action() -> None:
    model = ToyWorld().eval()
    steps = torch.tensor([[0.02, 0.04, 0, 0, 0, 0, 0], [0.04, -0.02, 0, 0, 0, 0, 0]])
    (found,) = landscapes(model, moment_of(model, steps), [grid(("x", "y"), 0.03, 7)])
    assert found.horizon == 2
    np.testing.assert_allclose(found.truth[:2], [0.03, 0.01], atol=1e-8)
    np.testing.assert_allclose(found.lowest, [[0.03, 0.01]], atol=1e-8)
    assert found.at_truth == pytest.approx(0, abs=1e-6)


def test_looking_is_done_once_and_memory_is_bounded() -> None:
    class Counting(ToyWorld):
        looks = 0

        def look(
            self, features: torch.Tensor, state: torch.Tensor, action: torch.Tensor
        ) -> Context:
            Counting.looks += 1
            return super().look(features, state, action)

    model = Counting()
    grids = [grid(), grid(("x", "y"), steps=9)]
    small = landscapes(model, moment(model), grids, memory=4.5 * 48 * 4 * 16 / 1e9)
    assert (Counting.looks, model.most) == (1, 4)
    large = landscapes(model, moment(model), grids)
    assert model.most == 2 + 125 + 1 + 81 + 1
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(a.energy, b.energy, rtol=1e-5, atol=1e-7)


def test_dropout_is_off_and_modes_come_back() -> None:
    model = ToyWorld().train()
    model.part = torch.nn.Dropout().eval()
    model.other = torch.nn.Dropout()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert (model.training, model.part.training, model.other.training) == (True, False, True)


def test_played_backwards_the_landscape_turns_round() -> None:
    model = ToyWorld()
    truth = np.array([0.0375, -0.0375, 0.075, 0, 0, 0, 0.2])
    place = moment(model, truth)
    after = model.moved(REST, place.action[0])
    back = backwards(place, after, FRANKA)
    (there,), (again,) = (landscapes(model, m, [grid()])[0].lowest for m in (place, back))
    np.testing.assert_allclose(there, truth[:3], atol=1e-9)
    np.testing.assert_allclose(again, -truth[:3], atol=1e-9)


def test_backwards_inverts_rotations_and_the_order_of_actions() -> None:
    model = ToyWorld()
    steps = torch.tensor([[0.01, 0, 0, 0.3, -0.2, 0.5, 0.1], [0, 0.02, 0, -0.4, 0.1, 0.2, -0.2]])
    states = [REST]
    for step in steps:
        states.append(poses.moved(states[-1], step))
    place = moment_of(model, steps)
    back = backwards(place, states[2], FRANKA)
    torch.testing.assert_close(poses.moved(states[2], back.action[0]), states[1])
    torch.testing.assert_close(
        poses.moved(poses.moved(states[2], back.action[0]), back.action[1]), REST
    )
    assert torch.equal(back.features[0], place.goal)
    assert torch.equal(back.goal, place.features[-1])
    assert back.earlier.shape == (0, 7)


def test_backwards_needs_the_state_after() -> None:
    with pytest.raises(DataError, match="3 axes, the one before 7"):
        backwards(moment(ToyWorld()), torch.zeros(3), FRANKA)


def test_other_goals_come_from_other_episodes() -> None:
    model = ToyWorld()
    truths = [TRUTH * sign for sign in (1.0, -1.0, 0.5)]
    places = [moment(model, truth, i) for i, truth in enumerate(truths)] * 2
    for seed in range(5):
        found = with_other_goals(places, seed)
        assert len(found) == 6
        for before, after in zip(places, found, strict=True):
            sources = {m.episode for m in places if torch.equal(m.goal, after.goal)}
            assert before.episode not in sources
            assert after.action is before.action
    first, again = with_other_goals(places, 4), with_other_goals(places, 4)
    assert all(torch.equal(a.goal, b.goal) for a, b in zip(first, again, strict=True))
    with pytest.raises(DataError, match="only one"):
        with_other_goals(places[:1])


def test_json_and_back() -> None:
    model = ToyWorld()
    (found,) = landscapes(model, moment(model, episode=3), [grid(("x", "yaw"), others="truth")])
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    back = Landscape.from_json(value)
    assert back.grid == found.grid
    np.testing.assert_allclose(back.energy, found.energy, rtol=1e-8)
    np.testing.assert_array_equal(back.energy.astype(np.float32), found.energy.astype(np.float32))
    assert back.to_json() == value
    for broken in (
        {**value, "energy": value["energy"][1:]},
        {k: v for k, v in value.items() if k != "truth"},
        {**value, "names": ["x"]},
        {**value, "grid": 3},
        {**value, "more": 1},
    ):
        with pytest.raises(DataError, match="compute it again"):
            Landscape.from_json(broken)


def test_truths_that_are_none_are_refused() -> None:
    model = ToyWorld()
    place = moment(model)
    with pytest.raises(DataError, match=r"step 0 of episode 0 is .*nan"):
        landscapes(model, place._replace(action=place.action * torch.nan), [grid()])
    with pytest.raises(DataError, match="has 6 axes"):
        landscapes(model, place._replace(action=place.action[:, 1:]), [grid()])


def world(config: ActionPredictorConfig, weights: dict[str, torch.Tensor]) -> ActionWorldModel:
    """Wrap a predictor with official weights; its encoder is not asked."""
    encoder = VJepa2Config(image_size=16, dim=config.feature_dim, depth=1, heads=1, mlp=8)
    settings = ActionWorldModelConfig(encoder=encoder, predictor=config, step_seconds=0.25)
    predictor = config.build()
    predictor.load_state_dict(weights, strict=True)
    return ActionWorldModel(settings, encoder.build(), predictor)


@pytest.mark.parametrize("horizon", official.HORIZONS)
def test_official_landscapes(horizon: int) -> None:
    """The notebook's 125 actions, once and repeated, over a grid of patches that is not square."""
    config = CASES[official.CASE]
    model, given = world(config, weights(config.build())), inputs(config)
    features, state = given["features"][0], given["state"][0]
    place = Moment(
        0, 0, features[:1], state[:1], state[:0], None, torch.zeros(horizon, 7),
        features[official.GOAL],
    )  # fmt: skip
    (found,) = landscapes(model, place, [grid()])
    expected = official.stored()[f"{horizon}/energy"]
    np.testing.assert_allclose(found.energy.ravel(), expected, rtol=0, atol=1e-6)
    assert np.ptp(expected) > 0.002  # energies differ by far more than they may deviate


def test_the_shared_energies(shared_data: Path) -> None:
    shared = np.load(shared_data / "vjepa2_ac" / "tiny_official_vjepa2ac.npz")
    loaded = {k[5:]: torch.from_numpy(v) for k, v in shared.items() if k.startswith("pred/")}
    shape = ActionPredictorConfig(grid=(4, 4), feature_dim=128, dim=128, depth=2, heads=2, mlp=512)
    features = torch.from_numpy(shared["h"]).view(4, 16, 128)
    state = torch.from_numpy(shared["states"][0]).float()
    action = torch.from_numpy(shared["actions_from_diffs"][0]).float()
    first, *_ = moments(features, state, action, 0)
    where = grid(steps=3)
    candidates = where.candidates(np.zeros(7), poses.NAMES)
    np.testing.assert_allclose(candidates, shared["grid"][:, 0], atol=1e-8)
    (found,) = landscapes(world(shape, loaded), first, [where])
    np.testing.assert_allclose(found.energy.ravel(), shared["energy_l1"], rtol=0, atol=1e-6)
