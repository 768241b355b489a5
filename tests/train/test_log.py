import os
from pathlib import Path
from typing import TextIO

import pytest
import torch

from saccade.errors import SpaceError
from saccade.train.log import JsonLines, Meter, Progress, Screen, line, truncate


def test_truncating_drops_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "x": 0.5}\n{"step": 2, "x": 0.25}\n'
    path.write_bytes(whole + b'{"step": 3, "x": 0.1}\n{"step": 2, "x"')
    truncate(path, last_step=2)
    assert path.read_bytes() == whole


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        lines.write({"step": 1, "loss": float("nan")})
    lines.close()


def test_a_full_disk_is_named() -> None:
    lines = JsonLines(Path("/dev/full"))
    with pytest.raises(SpaceError, match="/dev/full"):
        lines.write({"step": 1})
    lines.close()


def test_the_meter_counts_recent_steps() -> None:
    meter = Meter(batch_size=8, window=2)
    for seconds, waiting in ((100.0, 0.0), (1.0, 0.5), (3.0, 0.5)):
        meter.add(seconds, waiting)
    assert meter.samples_per_second == 4.0
    assert meter.data_wait == 0.25
    assert meter.overall == pytest.approx(24 / 104)
    assert meter.progress(5, 10, 0.1, "").eta == 10.0


def test_a_line_shows_loss_rate_wait_and_time_to_go() -> None:
    shown = line(
        Progress(step=3, steps=9, loss=0.5, samples_per_second=80.0, data_wait=0.25, eta=61.0)
    )
    assert shown == "step 3/9  loss 0.5  80 samples/s  data wait 25%  ETA 1:01"


def show(stream: TextIO) -> None:
    screen = Screen(stream)
    for step in range(1, 4):
        screen(Progress(step=step, steps=3))
    screen(Progress(step=3, steps=3, note="look"))


def test_a_terminal_gets_one_living_line() -> None:
    master, slave = os.openpty()
    with open(slave, "w") as terminal:
        show(terminal)
        shown = ""
        while "look\r\n" not in shown:
            shown += os.read(master, 10_000).decode()
    os.close(master)
    assert shown.startswith("\r\x1b[2Kstep 1/3")
    assert shown.count("\n") == 2  # after the last step and after the note


def test_a_file_gets_plain_lines(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        show(file)
    first, last, note = (tmp_path / "log").read_text().splitlines()
    assert first.startswith("step 1/3")
    assert last.startswith("step 3/3")
    assert note == "look"


def test_memory_is_measured_in_megabytes() -> None:
    assert 50 < Meter(1, 1).record(torch.device("cpu"))["peak_memory_mb"] < 50_000
