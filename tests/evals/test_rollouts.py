import zlib
from pathlib import Path

import numpy as np
import pytest

from saccade.data.video.codec import decode_frames, video_info
from saccade.errors import ConfigError, DataError
from saccade.evals.players import NothingConfig
from saccade.evals.protocols import named
from saccade.evals.rollouts import Film, Key, key_of, plan, play, stand_still
from tests.evals.toy_scenes import PROTOCOL, Seeker, SeekerConfig, ToyScene, ToySuite

SUITE = ToySuite(broken={})
NEAR = SUITE.tasks[0]
TIMES = ("seconds",)


def scene() -> ToyScene:
    return SUITE.open(NEAR)


def key(state: int = 0, seed: int = 0) -> Key:
    return Key("toy", NEAR.name, state, seed)


def outcome(record: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if name not in TIMES}


def test_plan_lists_every_key_once_and_refuses_what_is_not_there() -> None:
    keys = plan(SUITE.tasks, 3, seeds=2)
    assert len(keys) == len(set(keys)) == 2 * 3 * 2
    assert keys[0] == Key("toy", "near", 0, 0)
    assert {k.initial_state for k in plan(SUITE.tasks, 3, (7, 9))} == {7, 9}
    for trials, states, seeds in ((21, (), 1), (1, (20,), 1), (2, (3, 3), 1), (2, (), 0)):
        with pytest.raises(ConfigError, match="initial states"):
            plan(SUITE.tasks, trials, states, seeds)


def test_an_outcome_depends_on_the_key_only() -> None:
    one, other = scene(), scene()
    player = SeekerConfig().build()
    first = outcome(play(one, player, key(1), PROTOCOL))
    play(one, player, key(2), PROTOCOL)  # must leave no trace
    assert outcome(play(one, player, key(1), PROTOCOL)) == first
    assert outcome(play(other, SeekerConfig().build(), key(1), PROTOCOL)) == first
    assert key_of(first) == key(1)
    apart = [
        play(one, player, key(2), PROTOCOL),
        play(one, player, key(1, seed=1), PROTOCOL),
        play(one, player, key(1), PROTOCOL.changed("toy", policy_seed=5)),
        play(one, player, key(1), PROTOCOL.changed("toy", env_seed=5)),
    ]
    assert len({str(found["actions"]) for found in (first, *apart)}) == 5


def test_steps_are_the_players_own_and_end_at_success() -> None:
    toy = scene()
    steps: list[np.ndarray] = []
    toy.step = lambda action, step=toy.step: (steps.append(action), step(action))[1]
    blind = SeekerConfig(blind=(0,)).build()
    lost = play(toy, blind, key(), PROTOCOL)
    assert (lost["success"], lost["steps"], lost["return"]) == (False, 30, 0.0)
    assert len(steps) == 30 + PROTOCOL.settle
    assert np.array_equal(steps[0], [0, 0, 1])
    steps.clear()
    won = play(toy, SeekerConfig().build(), key(), PROTOCOL)
    assert (won["success"], won["return"], won["chunks"]) == (True, 1.0, won["steps"])
    assert toy.success
    assert 0 < won["steps"] == len(steps) - PROTOCOL.settle < 30
    assert won["latency_ms"] == 1.0
    name = 0
    for action in steps[PROTOCOL.settle :]:
        name = zlib.crc32(action.tobytes(), name)
    assert won["actions"] == f"{name:08x}"


def test_only_a_film_draws_and_it_changes_nothing(tmp_path: Path) -> None:
    toy, player = scene(), SeekerConfig().build()
    plain = play(toy, player, key(3), PROTOCOL)
    assert toy.drawn == 0
    film = Film(tmp_path / "videos" / "a.mp4")
    seen = play(toy, player, key(3), PROTOCOL, film=film)
    assert outcome(seen) == outcome(plain)
    shown = (plain["steps"] + 1) // 2 + 1  # every other step, and the end
    info = video_info(film.path)
    assert (info.frames, info.height, info.fps) == (shown, 256, 5.0)
    assert decode_frames(film.path, np.array([0])).max() > 100
    assert [path.name for path in film.path.parent.iterdir()] == ["a.mp4"]


def test_nobody_is_told_to_do_what_is_no_action() -> None:
    class Broken(Seeker):
        def act(self, scene: object) -> np.ndarray:
            return np.array([0, np.nan, 1], np.float32)

    with pytest.raises(DataError, match="not 3 finite numbers"):
        play(scene(), Broken(SeekerConfig()), key(), PROTOCOL)


def test_time_is_watched_from_the_reset_on() -> None:
    told: list[str] = []
    play(scene(), NothingConfig().build(), key(), PROTOCOL, told.append)
    assert told == ["reset"] + ["step"] * (PROTOCOL.settle + 1 + 30)


def test_the_grippers_of_settling_are_those_of_the_protocol() -> None:
    toy = scene()
    assert stand_still(toy, named("lerobot").settle_gripper).tolist() == [0, 0, 1]
    assert stand_still(toy, named("bc").settle_gripper).tolist() == [0, 0, 0.5]


def test_the_simulator_is_seeded_as_the_protocol_has_it() -> None:
    assert key(3, seed=2).scene_seed(named("openpi")) == 7 + 2
    assert key(3, seed=2).scene_seed(named("lerobot")) == 1000 + 3 + 2
    toy, given = scene(), list[tuple[int, int]]()
    reset = toy.reset

    def told(initial_state: int, seed: int) -> None:
        given.append((initial_state, seed))
        reset(initial_state, seed)

    toy.reset = told
    play(toy, SeekerConfig().build(), key(3), PROTOCOL.changed("toy", env_seed=5))
    assert given == [(3, 5)]


def test_random_numbers_differ_between_all_keys() -> None:
    keys = plan(SUITE.tasks, 20, seeds=3)
    assert len({k.numbers(PROTOCOL) for k in keys}) == len(keys)
