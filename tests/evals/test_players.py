from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from websockets.sync.server import ServerConnection

from saccade.config import to_dict
from saccade.data.synthetic import SyntheticConfig
from saccade.deploy.appearance import thumbnail
from saccade.deploy.runner import LocalActor
from saccade.errors import CheckpointError, ConfigError
from saccade.evals.players import (
    NothingConfig,
    PolicyConfig,
    RandomConfig,
    ReplayMeanConfig,
    contract_of,
    drawn,
    mean_sequence,
)
from saccade.evals.protocols import Pictures, named
from saccade.evals.rollouts import Key, play
from saccade.scenes import Task
from tests.deploy.serving import packed, served, unpacked
from tests.deploy.test_client import foreign
from tests.evals.toy_policy import CONTRACT, SIDE, save
from tests.evals.toy_scenes import PROTOCOL, ToyScene, ToySuite

SUITE = ToySuite(broken={})


def scene(instruction: str = "go") -> ToyScene:
    made = ToyScene(Task(suite="toy", name="near", instruction=instruction), SUITE)
    made.reset(0, 0)
    return made


def test_nothing_moves_nothing_and_random_fills_the_box() -> None:
    toy = scene()
    nothing, random = NothingConfig().build(), RandomConfig().build()
    nothing.begin(toy, (1, 2))
    assert nothing.act(toy).tolist() == [0, 0, 1]
    random.begin(toy, (1, 2))
    drawn_ = np.stack([random.act(toy) for _ in range(500)])
    assert drawn_.dtype == np.float32
    assert np.allclose(drawn_.min(0), [-1, -1, 0], atol=0.02)
    assert np.allclose(drawn_.max(0), 1, atol=0.02)
    random.begin(toy, (1, 2))
    assert np.array_equal(random.act(toy), drawn_[0])
    random.begin(toy, (1, 3))
    assert not np.array_equal(random.act(toy), drawn_[0])


def test_the_mean_of_demonstrations_is_replayed_blindly() -> None:
    data = SyntheticConfig(episodes=4, tasks=2)
    world = data.build()
    told = world.tasks[1]
    lengths = [n for n, task in zip(world.lengths, world.tasks, strict=True) if task == told]
    mine = [i for i, task in enumerate(world.tasks) if task == told]
    actions = [world.numbers(i, np.arange(world.lengths[i]))[1] for i in mine]
    expected = [
        np.mean([action[t] for action in actions if t < len(action)], axis=0)
        for t in range(max(lengths))
    ]
    assert np.allclose(mean_sequence(world, told), expected, atol=1e-6)
    toy = scene(told)
    toy.action_names = tuple(world.action_names)  # pyright: ignore[reportAttributeAccessIssue]
    player = ReplayMeanConfig(data=data).build()
    player.check(toy)
    player.begin(toy, (0,))
    assert np.allclose([player.act(toy) for _ in expected], expected, atol=1e-6)
    after = player.act(toy)
    grippers = np.array(["gripper" in name for name in toy.action_names])
    assert np.array_equal(after, np.where(grippers, expected[-1], 0).astype(np.float32))
    with pytest.raises(ConfigError, match="no demonstrations of 'another'"):
        player.check(scene_named("another", toy.action_names))
    with pytest.raises(ConfigError, match="the scene takes x, y, gripper"):
        player.check(scene(told))


def scene_named(instruction: str, names: tuple[str, ...]) -> ToyScene:
    made = scene(instruction)
    made.action_names = names  # pyright: ignore[reportAttributeAccessIssue]
    return made


def test_a_policy_reaches_its_goal_and_sees_only_what_it_needs(tmp_path: Path) -> None:
    player = PolicyConfig(folder=save(tmp_path / "policy")).build()
    toy = scene()
    player.check(toy)
    drawn_before = toy.drawn
    found = play(toy, player, Key("toy", "near", 0, 0), PROTOCOL)
    assert found["success"]
    assert toy.drawn - drawn_before == found["chunks"] == -(-found["steps"] // CONTRACT.chunk)
    assert found["latency_ms"] > 0
    again = play(toy, player, Key("toy", "near", 0, 0), PROTOCOL)
    assert again["actions"] == found["actions"]
    one = PolicyConfig(folder=tmp_path / "policy", execute=1).build()
    one.check(toy)
    closer = play(toy, one, Key("toy", "near", 0, 0), PROTOCOL)
    assert closer["chunks"] == closer["steps"]


def test_a_scene_that_does_not_fit_the_contract_is_refused(tmp_path: Path) -> None:
    player = PolicyConfig(folder=save(tmp_path / "policy")).build()
    toy = scene()
    toy.cameras = ("side",)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ConfigError, match="top"):
        player.check(toy)


def test_a_scene_that_looks_turned_is_refused(tmp_path: Path) -> None:
    toy = scene()
    frame = torch.from_numpy(toy.render("top", SIDE, SIDE)).permute(2, 0, 1)
    same = PolicyConfig(folder=save(tmp_path / "same", thumbnail(frame[None]))).build()
    same.check(toy)
    turned = PolicyConfig(folder=save(tmp_path / "turned", thumbnail(frame.flip(1)[None]))).build()
    with pytest.raises(ConfigError, match="camera top looks more like training with rows in rev"):
        turned.check(toy)


def test_a_served_policy_acts_as_the_same_one_here(tmp_path: Path) -> None:
    folder, toy = save(tmp_path / "policy"), scene()
    here = PolicyConfig(folder=folder).build()
    here.check(toy)
    expected = play(toy, here, Key("toy", "near", 1, 0), PROTOCOL)
    with served(LocalActor(folder)) as url:
        # what it would be shown if it were a stranger does not count
        there = PolicyConfig(url=url, pictures=named("openvla").pictures).build()
        there.check(toy)
        drawn_before = toy.drawn
        found = play(toy, there, Key("toy", "near", 1, 0), PROTOCOL)
    assert found["success"]
    assert toy.drawn - drawn_before == found["chunks"]
    timed = ("seconds", "latency_ms")
    assert {k: v for k, v in found.items() if k not in timed} == {
        k: v for k, v in expected.items() if k not in timed
    }


def test_a_server_that_says_nothing_is_measured_by_the_protocol() -> None:
    requests = []

    def talk(connection: ServerConnection) -> None:
        for message in connection:
            assert isinstance(message, bytes)
            requests.append(unpacked(message))
            connection.send(packed({"actions": np.array([[0.1, 0.2, -1.0]] * 4)}))

    toy = scene()
    pictures = Pictures(
        cameras=("top",), render=96, resize=48, resample="bilinear", orientation="upright",
        state_names=("y", "x"), chunk=4,
    )  # fmt: skip
    with foreign(talk) as url:
        with pytest.raises(ConfigError, match="does not say what its policy was trained on"):
            PolicyConfig(url=url).build().check(toy)
        player = PolicyConfig(url=url, pictures=pictures, execute=2).build()
        player.check(toy)
        first = drawn(toy, "top", pictures)
        player.begin(toy, (0,))
        actions = []
        for _ in range(5):
            actions.append(player.act(toy))
            toy.step(actions[-1])
    np.testing.assert_allclose(actions, [[0.1, 0.2, 1.0]] * 5, rtol=1e-6)  # -1 opens
    assert len(requests) == len(player.latencies) == 3
    assert requests[0].keys() == {"observation/image", "observation/state", "prompt"}
    assert np.array_equal(requests[0]["observation/image"], first)
    assert not np.array_equal(requests[1]["observation/image"], first)
    assert requests[0]["prompt"] == "go"
    assert requests[1]["observation/state"][1] > 0.01  # x, after two steps


def test_whoever_is_no_policy_server_ends_the_evaluation() -> None:
    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.handle_request).start()
        player = PolicyConfig(url=f"ws://127.0.0.1:{server.server_port}").build()
        with pytest.raises(ConfigError, match=r"does not let us in .*501"):
            player.check(scene())


def test_weights_are_part_of_who_plays(tmp_path: Path) -> None:
    config = PolicyConfig(folder=save(tmp_path / "policy"))
    before = config.about()
    assert before["folder"] == str(tmp_path / "policy")
    assert config.about() == before
    weights = tmp_path / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert config.about()["weights"] != before["weights"]
    with pytest.raises(CheckpointError, match="holds no policy"):
        PolicyConfig(folder=tmp_path).about()
    with pytest.raises(ConfigError, match="one of the two"):
        PolicyConfig().build()
    assert PolicyConfig(url="ws://a:1").about() == {"player": "server", "url": "ws://a:1"}
    assert to_dict(config)["folder"] == {"path": str(tmp_path / "policy")}


def test_a_stranger_is_shown_the_pictures_of_the_protocol() -> None:
    toy, pictures = scene(), named("openvla").pictures
    contract = contract_of(pictures, toy)
    assert (contract.frame_size, contract.image_size) == ((224, 224), 224)
    assert contract.orientation == "rot180"
    smooth = np.zeros((256, 256, 3), np.uint8)
    smooth[...] = np.arange(256, dtype=np.uint8)[:, None, None]
    toy.render = lambda camera, height, width: smooth[:height, :width]
    seen = drawn(toy, "top", pictures)
    assert seen.shape == (224, 224, 3)
    rows = np.arange(224) * 256 / 224 + (256 / 224 - 1) / 2
    assert np.abs(seen[:, 100, 0].astype(float) - rows).max() < 3
    assert not np.array_equal(drawn(toy, "top", Pictures(jpeg=30)), smooth)
    assert np.array_equal(drawn(toy, "top", Pictures()), smooth)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    toy.render = lambda camera, height, width: noise
    size, way = (224, 224), Image.Resampling.BILINEAR
    turned = np.asarray(Image.fromarray(noise[::-1, ::-1]).resize(size, way))  # openpi's order
    ours = drawn(toy, "top", named("openpi").pictures)[::-1, ::-1]
    assert np.abs(ours.astype(int) - turned).max() <= 1
