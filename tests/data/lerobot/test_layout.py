"""Metadata from elsewhere cannot point outside the data set or crash the reader."""

import copy
import functools
import operator
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from saccade.data.files.folder import Folder
from saccade.data.lerobot import reader as lerobot
from saccade.data.lerobot.layout import load_info, locate
from saccade.data.lerobot.reader import LeRobotConfig
from saccade.errors import DataError


@pytest.mark.parametrize(
    "template",
    [
        "../{episode_index}.parquet",
        "/etc/{episode_index}.parquet",
        "data/{episode_index.__class__}.parquet",
        "data/{episode_index[0]}.parquet",
        "data/{episode_index!r}.parquet",
        "data/{episode_index:0999999999d}.parquet",
        "data/{secret}.parquet",
        "data/{video_key}.parquet",
        "data/{}.parquet",
    ],
)
def test_templates_stay_inside_the_root(template: str) -> None:
    with pytest.raises(DataError, match=r"refused|unknown field"):
        locate("root", template, {"episode_index": 7, "video_key": "a/../../b"})


def test_templates_are_filled() -> None:
    found = locate("root", "a-{n:03d}/{n}_{key}", {"n": 7, "key": "observation.images.x"})
    assert found == "a-007/7_observation.images.x"


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        yield (*path, key)
        if isinstance(item, (dict, list)):
            yield from places(item, (*path, key))


@pytest.mark.parametrize("wrong", [None, "x", -1, [], {}, 1e308, 10**400])
def test_any_metadata_are_read_or_refused(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch, wrong: Any
) -> None:
    root = shared_data / "lerobot_v21_tiny"
    info, refused = load_info(Folder(root)), 0
    for path in places(info):
        changed = copy.deepcopy(info)
        inner = functools.reduce(operator.getitem, path[:-1], changed)
        inner[path[-1]] = wrong
        monkeypatch.setattr(lerobot, "load_info", lambda _, changed=changed: changed)
        try:
            LeRobotConfig(root=root).build()
        except DataError:
            refused += 1
    assert refused > 0
