"""A folder is opened as what it is, or refused in one sentence."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from saccade.config import Config, from_dict, to_dict
from saccade.data import formats, open_episodes
from saccade.data.episodes import Episodes
from saccade.data.files.folder import Folder
from saccade.data.formats import FORMATS, configure
from saccade.data.lerobot.reader import LeRobot, LeRobotConfig
from saccade.data.libero.reader import Libero
from saccade.errors import ConfigError, DataError
from tests.fixtures.libero import write_libero


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Config[Episodes]):
    format: ClassVar[str] = "sample"
    about: ClassVar[str] = "every kind of option"

    root: str | Path
    cameras: tuple[str, ...] = ()
    state: Literal["joint", "pose"] = "pose"
    fast: bool = False
    fps: float = 10.0
    first: int = 0
    labels: str = ""

    @staticmethod
    def recognises(folder: Folder) -> bool:
        return "sample.txt" in folder


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(formats, "FORMATS", (*FORMATS, SampleConfig))
    (tmp_path / "sample.txt").touch()
    return tmp_path


def test_a_folder_is_opened_as_what_it_is(lerobot: Path, sample: Path) -> None:
    assert isinstance(open_episodes(lerobot), LeRobot)
    assert isinstance(open_episodes(str(lerobot), format="lerobot", cameras=("front",)), LeRobot)
    assert configure(sample) == SampleConfig(root=sample)
    with pytest.raises(DataError, match=r"meta/info.json is missing"):
        open_episodes(sample, format="lerobot")


def test_one_file_of_demonstrations_is_a_data_set(tmp_path: Path) -> None:
    file = next(write_libero(tmp_path / "libero").rglob("*_demo.hdf5"))
    one = open_episodes(file)
    assert isinstance(one, Libero)
    assert len(set(one.tasks)) == 1
    with pytest.raises(DataError, match=r"does not exist; give the file or its folder"):
        open_episodes(tmp_path / "none_demo.hdf5")


def test_options_are_parsed_as_their_fields_say(sample: Path) -> None:
    texts = {"cameras": "a,b", "state": "joint", "fast": "yes", "fps": "29.97", "first": "3"}
    config = configure(sample, labels="names.csv", **texts)
    assert config == SampleConfig(
        root=sample,
        cameras=("a", "b"),
        state="joint",
        fast=True,
        fps=29.97,
        first=3,
        labels="names.csv",
    )
    assert from_dict(to_dict(config)) == config
    assert configure(sample, cameras="") == SampleConfig(root=sample)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "pos"}, "state is 'pos', expected one of joint, pose"),
        ({"state": 5}, "state is 5, expected one of joint, pose"),
        ({"fast": "maybe"}, "fast is 'maybe', expected bool"),
        ({"fps": "often"}, "fps is 'often', expected float"),
        ({"first": "1.5"}, "first is '1.5', expected int"),
        ({"speed": "1"}, r"no options \['speed'\]; they have \['cameras', 'fast', 'first', 'fps'"),
        ({"root": "x"}, "multiple values|no options"),
    ],
)
def test_wrong_options_are_refused(sample: Path, options: dict[str, str], message: str) -> None:
    error = TypeError if "root" in options else ConfigError
    with pytest.raises(error, match=message):
        configure(sample, **options)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no format 'hdf6'; the formats are lerobot"):
        open_episodes(tmp_path, format="hdf6")
    with pytest.raises(DataError, match=r"is no data set that we know \(tried lerobot"):
        open_episodes(tmp_path)
    with pytest.raises(DataError, match=r"is no folder \(nothing is there\)"):
        open_episodes(tmp_path / "absent")


def test_every_format_says_what_it_reads() -> None:
    names = [kind.format for kind in FORMATS]
    assert len(set(names)) == len(names)
    for kind in FORMATS:
        assert 20 < len(kind.about) < 100, kind
        assert isinstance(kind(root="somewhere"), Config)
    assert LeRobotConfig in FORMATS
