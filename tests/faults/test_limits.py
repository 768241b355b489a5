"""A machine that grants little: few file handles, long names, files that change meanwhile."""

import resource
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from saccade.data.formats import open_episodes
from saccade.data.loader import Loader
from saccade.data.windows import PairWindow
from saccade.errors import DataError
from tests.conftest import Outcome
from tests.faults import score
from tests.train import toy

HANDLES = 64


def read_with_few_handles(source: Path, told: Path, most: int) -> None:
    """Hold more batches of two workers than there are handles: each has one."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (HANDLES, most))
    episodes = open_episodes(str(source))
    loader = Loader(episodes, PairWindow(max_gap=3), "front", 8, workers=2, prefetch=2)
    toy.exit_as_told(lambda: list(islice(loader.batches(0), HANDLES + 16)), told)


@pytest.mark.parametrize(("most", "code"), [(4096, 0), (HANDLES, 3)])
def test_few_file_handles_suffice_or_the_mend_is_told(
    tmp_path: Path, lerobot: Path, most: int, code: int
) -> None:
    args = (lerobot, tmp_path / "told", most)
    child = toy.CHILDREN.Process(target=read_with_few_handles, args=args)
    child.start()
    child.join(120)
    score.add(hangs=child.exitcode is None)
    told = (tmp_path / "told").read_text() if (tmp_path / "told").exists() else ""
    assert child.exitcode == code, told
    assert not code or "Too many open files" in told
    assert not code or "; allow more open files (ulimit -n 4096), or use fewer" in told


def test_a_name_that_is_too_long_is_one_sentence(
    tmp_path: Path, saccade: Callable[..., Outcome]
) -> None:
    code, _, err = saccade("train", "two_stream:debug", "--out", tmp_path / ("x" * 300))
    assert code == 2
    assert err.count("error[2]") == 1
    assert "File name too long; give a place that may be written" in err


@pytest.mark.parametrize("change", ["deleted", "cut"])
def test_a_file_that_goes_while_it_is_read_is_an_error(
    tmp_path: Path, lerobot: Path, change: str
) -> None:
    root = tmp_path / "data"
    shutil.copytree(lerobot, root)
    episodes = open_episodes(str(root))
    window: Any = PairWindow(max_gap=3)
    rows = window.plan(episodes, 0, 0)
    for video in root.rglob("*.mp4"):
        if change == "deleted":
            video.unlink()
        else:
            video.write_bytes(video.read_bytes()[:1000])
    with pytest.raises(DataError):
        _ = [window.read(episodes, row, ("front",)) for row in rows]
