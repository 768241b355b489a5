import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.errors import ConfigError, DataError
from saccade.train.distributed import join
from tests.train import toy


def test_alone_it_decides_alone() -> None:
    with join("cpu") as ranks:
        assert ranks.agree(3, 0) == [3, 0]
        assert ranks.gather("a") == ["a"]
        assert ranks.on_main(lambda: 5) == 5
        with pytest.raises(DataError, match="gone"):
            ranks.together(lambda: (_ for _ in ()).throw(DataError("gone")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(ConfigError, match="no GPU"), join("cuda"):
        pass


def ranks_of(
    run_dir: Path, world: int, broken_rank: int = -1, fault: str = "", **changes: Any
) -> list[int | None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run_dir.mkdir(exist_ok=True)
    children = [
        toy.CHILDREN.Process(
            target=toy.run_as_rank,
            args=(rank, world, port, run_dir, broken_rank, fault, changes),
        )
        for rank in range(world)
    ]
    for child in children:
        child.start()
    codes: list[int | None] = []
    for child in children:
        child.join(5 if codes else 60)
        codes.append(child.exitcode)
        child.kill()  # where it is stopped
        child.join()
    return codes


def test_a_nan_on_one_rank_stops_all(tmp_path: Path) -> None:
    assert ranks_of(tmp_path / "run", 2, broken_rank=1) == [6, 6]
    told = [(tmp_path / "run" / f"error-{rank}.txt").read_text() for rank in (0, 1)]
    for message in told:
        assert "step 3" in message
        assert "output of head" in message
        assert "episodes in the batch: [20, 21, 22, 23]" in message  # those of rank 1


@pytest.mark.parametrize(
    ("fault", "timeout", "ends"),
    [("kill9", 60, -signal.SIGKILL), ("stop", 3, None)],
)
def test_a_lost_rank_ends_the_others(
    tmp_path: Path, fault: str, timeout: float, ends: int | None
) -> None:
    began = time.monotonic()
    fault = f"step:{fault}@step=3,rank=1"
    codes = ranks_of(tmp_path / "run", 2, fault=fault, rank_timeout=timeout)[::-1]
    assert codes[1] == 1
    assert time.monotonic() - began < 70
    told = (tmp_path / "run" / "error-0.txt").read_text()
    assert f"rank 0 of 2 lost another one, which died or took more than {timeout} s" in told
    assert ends is None or codes[0] == ends
