"""From what cameras and robot say to what a policy was trained to see: the one path there is.

Training reads frames through a reader and a ``Framing``; here the same is done to frames that
come one at a time, upright, from a simulator, a robot or a client. The two give the same bits,
which ``check_contract`` proves on frames of the simulator that a policy is about to act in.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from saccade.data.episodes import Episodes
from saccade.data.framed import FramedEpisodes
from saccade.data.libero.files import CAMERAS
from saccade.data.libero.reader import JOINTS, POSE, STATES, TURNS, LiberoConfig
from saccade.data.npz import CAMERA, FRAMES, NpzConfig
from saccade.data.npz import STATES as NUMBERS
from saccade.data.transforms import Framing
from saccade.errors import ConfigError, DataError
from saccade.scenes import Scene
from saccade.types import Contract, Observation, Orientation

FINGERS = ("gripper_left", "gripper_right")
FIRST = np.zeros(1, np.int64)
FILE = "round_trip_demo.hdf5"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a policy is shown of one moment; its text comes beside."""

    video: UInt8[Tensor, "v 3 h w"]
    state: Float32[Tensor, " s"]


class Preparation:
    """Frames and numbers as a contract wants them; whatever does not fit is an error.

    Args:
        contract: of the policy.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.framing = Framing.named(contract.crop, contract.image_size)

    def frame(self, camera: str, frame: Any) -> UInt8[Tensor, "3 size size"]:
        """Turn, cut and resize an upright frame, uint8 ``[h, w, 3]`` of the recorded size.

        Raises:
            DataError: it is of another size or kind.
        """
        expected = (*self.contract.frame_size, 3)
        known = isinstance(frame, np.ndarray)
        if not known or frame.dtype != np.uint8 or frame.shape != expected:
            found = f"{frame.dtype}{list(frame.shape)}" if known else type(frame).__name__
            raise DataError(
                f"camera {camera} gave {found}, the policy was trained on uint8{list(expected)}; "
                "render or record at that size"
            )
        turned = torch.from_numpy(turn(frame, self.contract.orientation)[None])
        return self.framing(turned.permute(0, 3, 1, 2))[0]

    def state(self, values: Mapping[str, float]) -> Float32[Tensor, " s"]:
        """Put named numbers in the order of the policy.

        Raises:
            DataError: one is missing or not finite.
        """
        names = self.contract.state_names
        if absent := [name for name in names if name not in values]:
            raise DataError(
                f"the state lacks {', '.join(absent)}; the policy was trained on "
                f"{', '.join(names)}, given are {', '.join(sorted(values)) or 'none'}"
            )
        with np.errstate(over="ignore"):
            numbers = np.array([values[name] for name in names], np.float64).astype(np.float32)
        if not np.isfinite(numbers).all():
            worst = int(np.argmin(np.isfinite(numbers)))
            raise DataError(
                f"the state's {names[worst]} is {values[names[worst]]}, expected a finite number; "
                "look at the sensor or the simulator"
            )
        return torch.from_numpy(numbers)

    def moment(self, frames: Callable[[str], np.ndarray], values: Mapping[str, float]) -> Moment:
        """Ask for a frame of each camera, and prepare all that a policy sees of this moment."""
        state = self.state(values)  # first: it costs no rendering to find it wanting
        size = self.contract.image_size
        views = [self.frame(camera, frames(camera)) for camera in self.contract.cameras]
        video = torch.stack(views) if views else torch.empty(0, 3, size, size, dtype=torch.uint8)
        return Moment(video=video, state=state)

    def observation(self, moments: Sequence[Moment], text: str) -> Observation:
        """Return a batch of one: moments, the oldest first, and what is to be done.

        Raises:
            DataError: there are more or fewer moments than the policy was trained on, or the
                text is empty.
        """
        if len(moments) != self.contract.history:
            raise DataError(
                f"given are {len(moments)} moments, the policy was trained on "
                f"{self.contract.history}"
            )
        return Observation(
            video=torch.stack([moment.video for moment in moments])[None].contiguous(),
            state=torch.stack([moment.state for moment in moments])[None],
            text=[instruction_of(text)],
        )


def turn(frame: UInt8[np.ndarray, "h w 3"], orientation: Orientation) -> UInt8[np.ndarray, "h w 3"]:
    """Copy an upright frame, turned as the reader of LIBERO's files would have turned it.

    Their rows are stored from the last to the first, as OpenGL draws them.
    """
    return frame[::-1][TURNS[orientation]].copy()


def instruction_of(text: object) -> str:
    """Return an instruction that says something.

    Raises:
        DataError: it is empty, or not a text.
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"the instruction is {text!r:.60}; say what the robot is to do")
    return text


def check_contract(contract: Contract, scene: Scene) -> str:
    """Make sure that a policy sees in a scene what it saw in training; return what was compared.

    The scene has been reset. One frame of each camera is drawn and written to a file, rows from
    the last to the first as LIBERO's official files have them; a reader opens it as training
    does. What comes out must be what ``Preparation`` makes of the frame, bit for bit; numbers of
    the state too, up to rounding, where the scene has all that such a file stores.

    Raises:
        ConfigError: it names what differs.
    """
    values = scene.state()
    _check_names(contract, scene, values)
    pictures = {name: scene.render(name, *contract.frame_size) for name in contract.cameras}
    prepared = Preparation(contract).moment(pictures.__getitem__, values)
    official = set(contract.cameras) <= set(CAMERAS)
    if not official and contract.orientation != "upright":
        raise ConfigError(
            f"the policy was trained on {contract.orientation} frames, which only LIBERO's files "
            f"have, but on cameras {', '.join(contract.cameras)}; train on upright ones"
        )
    stored = set(values) >= {*POSE, *JOINTS, *FINGERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if official:
            _write_libero(folder, pictures, values if stored else {}, scene.fps)
        for view, camera in enumerate(contract.cameras):
            episodes = _read_back(folder, camera, pictures[camera], contract, official)
            read = FramedEpisodes(episodes, Framing.named(contract.crop, contract.image_size))
            seen = read.pixels(0, read.cameras[0], FIRST)[0]
            _check_picture(camera, prepared.video[view], seen)
        numbers = _numbers(folder) if official and stored else {}
    compared = [name for name in contract.state_names if name in numbers]
    for name in compared:
        if not np.isclose(values[name], numbers[name], rtol=1e-5, atol=1e-6):
            raise ConfigError(
                f"the scene's {name} is {values[name]:.6g}, read from a file of training's layout "
                f"it is {numbers[name]:.6g}; the scene and the reader disagree on what it means"
            )
    told = ", ".join([*contract.cameras, *compared])
    return f"round trip through {'an HDF5' if official else 'a'} file equal: {told or 'nothing'}"


def _check_names(contract: Contract, scene: Scene, values: Mapping[str, float]) -> None:
    has = {"cameras": set(scene.cameras), "state": set(values)}
    wanted = {"cameras": contract.cameras, "state": contract.state_names}
    for kind, names in wanted.items():
        if absent := [name for name in names if name not in has[kind]]:
            raise ConfigError(
                f"the scene of {scene.task.name!r} lacks {kind} {', '.join(absent)} of the policy; "
                f"it has {', '.join(sorted(has[kind]))}"
            )
    if scene.action_names != contract.action_names:
        raise ConfigError(
            f"the policy commands {', '.join(contract.action_names)}, the scene takes "
            f"{', '.join(scene.action_names)}; evaluate it where it was trained"
        )
    if contract.action_unit != "normalised":
        raise ConfigError(
            f"the policy's commands are {contract.action_unit}, scenes take those of the robot's "
            "controller; train with action=normalised"
        )
    if abs(scene.fps - contract.fps) > 1e-3 * contract.fps:
        raise ConfigError(
            f"the policy was trained at {contract.fps:g} commands per second, the scene takes "
            f"{scene.fps:g}; evaluate it where it was trained"
        )


def _write_libero(
    folder: Path, pictures: Mapping[str, np.ndarray], values: Mapping[str, float], fps: float
) -> None:
    """Write one row as LIBERO's scripts do; a camera that nobody looks through saw one pixel."""
    blank = np.zeros((1, 1, 3), np.uint8)
    rows = {f"obs/{key}": pictures.get(name, blank)[::-1] for name, key in CAMERAS.items()}
    groups = {"ee_states": POSE, "joint_states": JOINTS, "gripper_states": FINGERS}
    rows |= {f"obs/{k}": np.array([values.get(n, 0.0) for n in v]) for k, v in groups.items()}
    with h5py.File(folder / FILE, "w") as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.zeros((1, 7))
        for key, row in rows.items():
            demo[key] = row[None]
        file["data"].attrs["macros_image_convention"] = "opengl"
        file["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": fps}})


def _read_back(
    folder: Path, camera: str, picture: np.ndarray, contract: Contract, official: bool
) -> Episodes:
    """Open a file with one frame of a camera as training opens its data."""
    if official:
        return LiberoConfig(
            root=folder / FILE,
            cameras=(camera,),
            orientation=contract.orientation,
            alignment="before",
        ).build()
    path = folder / "round_trip.npz"
    arrays = {FRAMES: picture[None, None], NUMBERS: np.zeros((1, 1, 7))}
    np.savez(path, allow_pickle=False, **arrays)
    return NpzConfig(root=path, cameras=(CAMERA,)).build()


def _numbers(folder: Path) -> dict[str, float]:
    """Return every number of the state that the reader finds in the file, by name."""
    found = {}
    for kind in STATES:
        read = LiberoConfig(root=folder / FILE, state=kind, alignment="before").build()
        found |= zip(read.state_names, read.numbers(0, FIRST)[0][0].tolist(), strict=True)
    return found


def _check_picture(camera: str, ours: Tensor, read: Tensor) -> None:
    if ours.shape != read.shape or not ours.equal(read):
        apart = f"{list(ours.shape)} and {list(read.shape)}"
        if ours.shape == read.shape:
            off = (ours.int() - read.int()).abs()
            apart = f"{off.max()} grey levels at most, in {off.gt(0).float().mean():.1%} of pixels"
        raise ConfigError(
            f"camera {camera}: the policy would see another picture than in training ({apart} "
            "apart); use the version of saccade that trained it"
        )
