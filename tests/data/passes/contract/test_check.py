"""Each broken rule is found, by the check that is for it; sound data break none."""

from typing import get_args

import pytest

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.passes.contract import cameras
from saccade.data.passes.contract.check import check_ac
from saccade.errors import ConfigError
from tests.fixtures.arm import ArmConfig, Defect

FOUND = {  # what each defect must lead to: check, verdict, words of what is found
    "degrees": ("rotation unit", "fails", "degrees?"),
    "millimetres": ("position unit", "fails", "as millimetres it would fit"),
    "metres from -1 to 1": ("position unit", "fails", "centred and scaled on every axis"),
    "not wrapped": ("rotation unit", "warning", "not wrapped in"),
    "gripper turned round": ("gripper sense", "fails", "100% below 0.3"),
    "gripper and command turned round": ("gripper sense", "warning", "100% below 0.3"),
    "gripper in counts": ("gripper range", "fails", "counts to 255?"),
    "header says 60 Hz": ("frame rate", "fails", "60 Hz by header"),
    "every frame four times": ("frame rate", "fails", "every 4 frames only (100% of runs): 15 Hz"),
    "5 Hz": ("step duration", "fails", "median 0.201 s"),
    "camera moves": ("camera", "fails", "side moving"),
    "extrinsic zyx": ("Euler order", "fails", "extrinsic zyx (intrinsic XYZ), turns seen from"),
    "yaw first": ("Euler order", "fails", "of the columns yaw, pitch, roll"),
    "rotation vector as angles": ("Euler order", "fails", "recorded turns fit rotation vectors"),
    "roll and pitch exchanged": ("Euler order", "fails", "of the columns pitch, roll, yaw"),
    "angle differences as turns": ("Euler order", "not decidable", "differences of the angles"),
    "dead axis": ("axes that move", "warning", "never changes: y"),
    "jumps": ("step size", "fails", "66.7% beyond"),
    "z turned round": ("recorded actions", "warning", "opposite to the motion along z"),
}


def test_sound_data_break_no_rule() -> None:
    checked = check_ac(ArmConfig().build())
    assert {f.check: f.verdict for f in checked.findings if f.verdict != "ok"} == {}
    assert len({f.check for f in checked.findings}) == len(checked.findings) == 15
    assert all(f.episodes == 6 and f.frames > 0 for f in checked.findings)
    assert all(not f.mend for f in checked.findings)
    assert checked.used is not None
    assert checked.used.name == "side"
    assert not checked.fails


def test_every_defect_is_tested() -> None:
    assert set(FOUND) == set(get_args(Defect)) - {""}


@pytest.mark.parametrize("defect", FOUND)
def test_each_defect_is_found(defect: Defect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "LOOKED_AT", 1)  # episode; pictures take most of the time
    check, verdict, told = FOUND[defect]
    checked = check_ac(ArmConfig(defect=defect, episodes=5, length=64).build())
    found = {f.check: f for f in checked.findings}[check]
    assert (found.verdict, told in found.found) == (verdict, True), found
    assert found.mend or verdict == "not decidable"
    assert checked.fails or verdict != "fails"


def test_a_camera_that_moves_is_refused_if_asked_for() -> None:
    checked = check_ac(ArmConfig().build(), camera="wrist")
    found = {f.check: f for f in checked.findings}["camera"]
    assert (found.verdict, found.numbers["used"]) == ("fails", "wrist")
    with pytest.raises(ConfigError, match="no camera 'top'; there are wrist, side"):
        check_ac(ArmConfig().build(), camera="top")


def test_a_toy_without_rotations_is_refused(lerobot) -> None:
    checked = check_ac(LeRobotConfig(root=lerobot).build(), sample=4)
    verdicts = {f.check: f.verdict for f in checked.findings}
    assert verdicts["state axes"] == "fails"
    assert verdicts["Euler order"] == verdicts["rotation unit"] == "not decidable"
    assert checked.fails
