"""``saccade data check-ac`` from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from saccade.commands.data import check_ac
from saccade.commands.data.check_ac import summary, with_crops
from saccade.data.passes.contract.findings import Finding
from tests.conftest import Outcome
from tests.fixtures.arm import ArmConfig, Defect

Saccade = Callable[..., Outcome]


@pytest.fixture
def arm(monkeypatch: pytest.MonkeyPatch) -> Callable[[Defect], None]:
    """Let the command open the arm of the fixture."""

    def opened(defect: Defect) -> None:
        monkeypatch.setattr(check_ac.Command, "config", lambda _: ArmConfig(defect=defect))

    return opened


def test_sound_data_pass(saccade: Saccade, arm: Callable[[Defect], None], tmp_path: Path) -> None:
    arm("")
    report = tmp_path / "report.json"
    done = saccade("data", "check-ac", "arm", "--out", tmp_path / "p", "--report", report)
    assert done.code == 0, done.err
    assert "15 checks: 15 ok; the data set breaks no rule of the contract" in done.out
    found = json.loads(report.read_text())
    assert (found["obeys"], found["camera"], len(found["findings"])) == (True, "side", 15)
    for camera in ("side", "wrist"):
        assert f"picture: {tmp_path / 'p' / camera}.png (episode 0)" in done.out


def test_a_defect_is_told_with_its_mend_and_exit_code_1(
    saccade: Saccade, arm: Callable[[Defect], None], tmp_path: Path
) -> None:
    arm("millimetres")
    done = saccade("data", "check-ac", "arm", "--out", tmp_path)
    assert done.code == 1
    row = next(line for line in done.out.splitlines() if line.startswith("position unit"))
    assert row.split()[2] == "fails"
    assert "-> convert positions to metres" in done.out
    assert "the data set does not obey the contract" in done.out


def test_the_picture_shows_both_crops(
    saccade: Saccade, arm: Callable[[Defect], None], tmp_path: Path
) -> None:
    arm("")
    saccade("data", "check-ac", "arm", "--out", tmp_path)
    with av.open(str(tmp_path / "side.png")) as container:
        strip = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert strip.shape == (144, 8 * 256 + 7 * 4, 3)
    # of 144 x 256: the trained crop keeps columns 31 to 224, the square 56 to 199
    green, orange = (25, 229, 76), (255, 178, 25)
    for column, colour in ((31, green), (224, green), (56, orange), (199, orange)):
        assert np.abs(strip[70, column].astype(int) - colour).max() <= 1, column
    assert not (strip[70, 100] == green).all()


def test_crops_of_a_square_picture_are_the_whole() -> None:
    drawn = with_crops(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))[0]
    assert (drawn[:, 1:-1, 1:-1] == 0).all()
    assert (drawn[0, 0] == 1).all()


def test_the_reader_s_own_deltas_are_no_evidence(
    saccade: Saccade, shared_data: Path, tmp_path: Path
) -> None:
    root = shared_data / "droid_tiny"
    done = saccade("data", "check-ac", root, "--option", "action=delta", "--out", tmp_path)
    assert done.code == 0, done.err
    assert "turns are made" in done.out


def test_verdicts_are_counted() -> None:
    made = [
        Finding(check="a", verdict=verdict, found="", expected="")
        for verdict in ("ok", "ok", "fails", "not decidable")
    ]
    told = "4 checks: 2 ok, 1 fails, 1 not decidable; the data set does not obey the contract"
    assert summary(made) == told
    assert summary(made[:1]) == "1 check: 1 ok; the data set breaks no rule of the contract"


def test_wrong_questions_are_refused(
    saccade: Saccade, arm: Callable[[Defect], None], tmp_path: Path
) -> None:
    arm("")
    assert saccade("data", "check-ac", "arm", "--camera", "top").code == 2
    assert saccade("data", "check-ac", "arm", "--step-seconds", "0").code == 2
