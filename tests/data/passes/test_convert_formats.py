"""Each format that we read converts to LeRobot without a change, and tells what it is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saccade.config import Config
from saccade.data.bridge.npy import BridgeNumpyConfig
from saccade.data.bridge.raw import BridgeRawConfig
from saccade.data.bridge.rlds import BridgeConfig
from saccade.data.droid.raw import DroidRawConfig
from saccade.data.droid.rlds import DroidConfig
from saccade.data.egodex.reader import EgoDexConfig
from saccade.data.episodes import Episodes
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.libero.reader import LiberoConfig
from saccade.data.passes.convert import Conversion, convert, make_plan
from saccade.data.passes.survey import oddities, survey
from saccade.data.passes.verify import verify
from saccade.data.video.folder import VideoFolderConfig
from tests.data.passes.test_convert import check_same
from tests.fixtures.bridge import write_bridge, write_bridge_numpy, write_bridge_raw
from tests.fixtures.droid_raw import write_droid_raw
from tests.fixtures.egodex import write_egodex
from tests.fixtures.lerobot import write_lerobot
from tests.fixtures.libero import write_libero
from tests.fixtures.rlds import write_droid
from tests.fixtures.video_folder import write_video_folder

SOURCES: dict[str, Callable[[Path], Config[Episodes]]] = {
    "droid": lambda root: DroidConfig(root=write_droid(root / "droid", (24, 0, 28))),
    "droid_raw": lambda root: DroidRawConfig(root=write_droid_raw(root)),
    "egodex": lambda root: EgoDexConfig(
        root=write_egodex(root, parts=("part1",), tasks=("fold_towel",), episodes=2)
    ),
    "bridge": lambda root: BridgeConfig(root=write_bridge(root)),
    "bridge_raw": lambda root: BridgeRawConfig(root=write_bridge_raw(root)),
    "bridge_numpy": lambda root: BridgeNumpyConfig(root=write_bridge_numpy(root)),
    "libero": lambda root: LiberoConfig(root=write_libero(root)),
    "lerobot": lambda root: LeRobotConfig(root=write_lerobot(root, storage="image")),
    "videos": lambda root: VideoFolderConfig(root=write_video_folder(root, videos=3)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_format_converts_as_it_is(tmp_path: Path, name: str) -> None:
    source = SOURCES[name](tmp_path / "source")
    assert verify(source)["faults"] == []
    episodes = source.build()
    plan = make_plan(episodes, Conversion())
    convert(source, tmp_path / "out", Conversion())
    converted = LeRobotConfig(root=tmp_path / "out").build()
    check_same(episodes, converted, plan.cameras)
    found = survey(episodes)
    assert not found.unreadable
    oddities(episodes, found)
    for new, old in enumerate(plan.episodes):
        for camera, theirs in plan.cameras.items():
            last = np.array([episodes.lengths[old] - 1])
            stored = episodes.encoded(old, theirs, last)
            assert (stored is not None) == (camera in plan.pictures)
            assert stored is None or converted.encoded(new, camera, last) in (None, stored)
