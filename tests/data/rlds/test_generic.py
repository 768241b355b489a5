"""Any RLDS data set opens by its own keys, and says which it does not have."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from saccade.config import from_dict, to_dict
from saccade.data.files.folder import Folder
from saccade.data.formats import open_episodes
from saccade.data.rlds.generic import RldsConfig
from saccade.errors import ConfigError, DataError
from tests.contracts import check_reader
from tests.data.video.test_images import Image, stored
from tests.fixtures.rlds import EDGES, edges, film, image, jpegs, tensor, text, write_rlds

KEYS = {
    **EDGES,
    "episode_metadata/file_path": text(),
    "steps/observation/front": image(16, 24),
    "steps/observation/hand/left": image(16, 24, encoding="png"),
    "steps/observation/depth": image(16, 24, 1, "png"),
    "steps/observation/proprio": tensor("float32", 3),
    "steps/observation/opening": tensor("float64"),
    "steps/observation/natural_language_instruction": text(),
    "steps/observation/natural_language_embedding": tensor("float32", 512),
    "steps/action/world_vector": tensor("float32", 3),
    "steps/action/open_gripper": tensor("bool"),
    "steps/action/packed": tensor("float64", 2, encoding="zlib"),
}


def episode(number: int, length: int) -> dict:
    rng = np.random.default_rng(number)
    pictures = film(length, 16, 24, number)
    packed = rng.normal(size=(length, 2))
    return {
        **edges(length),
        "episode_metadata/file_path": [f"episode_{number}".encode()],
        "steps/observation/front": jpegs(pictures),
        "steps/observation/hand/left": [stored(Image.fromarray(f)) for f in pictures],
        "steps/observation/depth": [stored(Image.fromarray(f[..., 0])) for f in pictures],
        "steps/observation/proprio": np.arange(3 * length) / 8 + number,
        "steps/observation/opening": rng.uniform(0, 1, length),
        "steps/observation/natural_language_instruction": [f"open {number}".encode()] * length,
        "steps/observation/natural_language_embedding": np.zeros(512 * length),
        "steps/action/world_vector": rng.normal(size=3 * length),
        "steps/action/open_gripper": np.arange(length) % 2 == 0,
        "steps/action/packed": [zlib.compress(row.tobytes()) for row in packed],
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    episodes = [episode(i, n) for i, n in enumerate((24, 27, 30))]
    splits = {"train": [episodes[:2]], "test": [episodes[2:]]}
    return write_rlds(tmp_path_factory.mktemp("rlds") / "kitchen", "kitchen", KEYS, splits)


def test_keys_are_found(root: Path) -> None:
    episodes = RldsConfig(root=root, fps=5.0).build()
    assert episodes.cameras == ("front", "hand/left")
    assert episodes.state_names == ("proprio_0", "proprio_1", "proprio_2")
    assert episodes.action_names == (
        *("world_vector_0", "world_vector_1", "world_vector_2"),
        *("open_gripper", "packed_0", "packed_1"),
    )
    assert episodes.lengths == [24, 27, 30]
    assert episodes.tasks == ["open 0", "open 1", "open 2"]
    assert episodes.about(2) == {
        "source": "1.0.0/kitchen-test.tfrecord-00000-of-00001, record 0",
        "tasks": ["open 2"],
    }
    assert episodes.timestamps(0)[5] == 1.0
    state, action = episodes.numbers(1, np.array([3, 0]))
    np.testing.assert_array_equal(state, [[2.125, 2.25, 2.375], [1, 1.125, 1.25]])
    np.testing.assert_array_equal(action[:, 3], [0, 1])
    check_reader(episodes)


def test_other_keys_can_be_chosen(root: Path) -> None:
    config = RldsConfig(
        root=root,
        cameras=("hand/left",),
        state=("opening", "proprio"),
        action=("action/open_gripper",),
        splits=("test",),
    )
    episodes = config.build()
    assert episodes.state_names[:2] == ("opening", "proprio_0")
    assert episodes.action_names == ("open_gripper",)
    assert episodes.tasks == ["open 2"]
    assert episodes.pixels(0, "hand/left", np.array([4])).shape == (1, 3, 16, 24)
    np.testing.assert_array_equal(
        episodes.pixels(0, "hand/left", np.array([4]))[0].permute(1, 2, 0).numpy(),
        film(30, 16, 24, 2)[4],
    )
    assert from_dict(to_dict(config)) == config


def test_options_that_do_not_fit_are_refused(root: Path) -> None:
    for fps in (-1.0, np.inf, np.nan):
        with pytest.raises(ConfigError, match=rf"fps is {fps}, expected the rate of the robot"):
            RldsConfig(root=root, fps=fps).build()
    for config in (
        RldsConfig(root=root, cameras=("depth",)),
        RldsConfig(root=root, state=("joints",)),
        RldsConfig(root=root, action=("reward_",)),
    ):
        with pytest.raises(DataError, match=r"has no (cameras|vectors) \['.*; it has \["):
            config.build()


def test_a_rate_that_is_only_assumed_is_called_so(root: Path) -> None:
    assert RldsConfig(root=root).build().fps == 10
    assert RldsConfig(root=root).build().about(1)["assumed_fps"] == 10
    assert "assumed_fps" not in RldsConfig(root=root, fps=10.0).build().about(1)


def test_options_and_contents_change_the_fingerprint(root: Path) -> None:
    configs = (
        RldsConfig(root=root),
        RldsConfig(root=root, fps=5.0),
        RldsConfig(root=root, cameras=("front",)),
        RldsConfig(root=root, state=("opening",)),
    )
    assert len({config.build().fingerprint for config in configs}) == 4


def test_there_may_be_neither_pictures_nor_words(tmp_path: Path) -> None:
    features = {**EDGES, "steps/observation/state": tensor("float32", 2)}
    shard = [edges(n) | {"steps/observation/state": np.zeros(2 * n)} for n in (24, 0)]
    episodes = RldsConfig(
        root=write_rlds(tmp_path / "a", "a", features, {"train": [shard]})
    ).build()
    assert (episodes.cameras, episodes.tasks, episodes.lengths) == ((), ["", ""], [24, 0])
    assert episodes.action_names == ()
    check_reader(episodes)


def test_steps_are_not_counted_in_what_has_no_numbers(tmp_path: Path) -> None:
    features = {
        "steps/nothing": tensor("float32", 0),
        "steps/observation/state": tensor("int64", 2),
    }
    shard = [{"steps/nothing": np.zeros(0), "steps/observation/state": np.arange(48)}]
    root = write_rlds(tmp_path / "a", "a", features, {"train": [shard]})
    assert RldsConfig(root=root).build().lengths == [24]


def test_recognition(root: Path, tmp_path: Path) -> None:
    assert RldsConfig.recognises(Folder(root))
    assert RldsConfig.recognises(Folder(root / "1.0.0"))
    assert not RldsConfig.recognises(Folder(root.parent))
    (tmp_path / "features.json").write_text("{}")
    assert not RldsConfig.recognises(Folder(tmp_path))


def test_damaged_features_are_named_not_called_another_format(root: Path) -> None:
    (root / "1.0.0/features.json").write_text('{"pythonClassName": ')
    assert RldsConfig.recognises(Folder(root))
    with pytest.raises(DataError, match=r"features\.json is no JSON .*; download it again"):
        open_episodes(root)
