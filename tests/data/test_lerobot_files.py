"""Paths from info.json cannot leave the data set; the rest is tested through the reader."""

from pathlib import Path

import pytest

from saccade.data.lerobot_files import locate
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
def test_templates_stay_inside_the_root(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError, match=r"refused|unknown field"):
        locate(tmp_path, template, {"episode_index": 7, "video_key": "a/../../b"})


def test_templates_are_filled(tmp_path: Path) -> None:
    found = locate(tmp_path, "a-{n:03d}/{n}_{key}", {"n": 7, "key": "observation.images.x"})
    assert found == tmp_path / "a-007" / "7_observation.images.x"
