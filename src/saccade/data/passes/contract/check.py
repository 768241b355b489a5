"""Does a data set obey the contract of an action-conditioned V-JEPA 2?

Its states are ``[x, y, z, roll, pitch, yaw, gripper]`` of the end effector in the robot's base, in
metres, extrinsic xyz angles in radians; its actions are measured from states one step apart; its
pictures come from a fixed camera beside the robot, one step apart as well. Facts:
https://github.com/facebookresearch/vjepa2 (``app/vjepa_droid``) and arXiv 2506.09985.
"""

from typing import NamedTuple

from saccade.data.episodes import Episodes
from saccade.data.passes.contract.actions import gripper_sense, recorded_actions
from saccade.data.passes.contract.cameras import Camera, check_cameras, choose, look
from saccade.data.passes.contract.findings import Finding, gather
from saccade.data.passes.contract.rates import check_rates
from saccade.data.passes.contract.states import check_states
from saccade.data.passes.contract.turns import euler_order
from saccade.errors import ConfigError


class Checked(NamedTuple):
    """What was found, and the cameras with some of their pictures."""

    findings: list[Finding]
    cameras: list[Camera]
    used: Camera | None

    @property
    def fails(self) -> bool:
        """Whether any check fails."""
        return any(finding.verdict == "fails" for finding in self.findings)


def check_ac(
    episodes: Episodes,
    step_seconds: float = 0.25,
    camera: str = "",
    sample: int = 200,
    derived: bool = False,
) -> Checked:
    """Run every check on up to ``sample`` episodes, evenly spread; 0 looks at all of them.

    Args:
        episodes: the data set.
        step_seconds: the model's step.
        camera: the one to use; empty takes the first that stands still.
        sample: most episodes to look at. About 20 kB of each are kept in memory.
        derived: whether the reader makes its actions out of the states, so that they are no
            evidence about these.

    Raises:
        ConfigError: there is no such camera, or the step is no time.
        DataError: no episode has frames.
    """
    if camera and camera not in episodes.cameras:
        listed = ", ".join(episodes.cameras) or "none"
        raise ConfigError(f"there is no camera {camera!r}; there are {listed}")
    found = gather(episodes, step_seconds, sample)
    cameras = look(found)
    findings = [
        *check_states(found),
        euler_order(found, derived),
        gripper_sense(found),
        *check_rates(found),
        *check_cameras(found, cameras, camera),
        recorded_actions(found),
    ]
    return Checked(findings, cameras, choose(cameras, camera))
