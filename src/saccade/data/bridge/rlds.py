"""Bridge V2 as RLDS (``bridge_dataset``, which others call ``bridge_orig``).

Up to four cameras, whose pictures were squashed from 480 x 640 to 256 x 256. A camera that an
episode lacks is stored as black pictures; those are found when the data set is first opened, as
the flags ``has_image_k`` are wrong in the public data. The first action of an episode carries no
motion, so that step is left out unless asked for. Keys and units: ``bridge_conventions``.
https://rail-berkeley.github.io/bridgedata, and for what others leave out and relabel
https://github.com/openvla/openvla (``prismatic/vla/datasets/rlds/oxe``, and issue 114)
"""

import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.bridge.conventions import FPS, NAMES, Action, binary, measured_motion, scene
from saccade.data.episodes import Conventions, Episodes
from saccade.data.files.folder import Folder
from saccade.data.rlds.episode import Episode
from saccade.data.rlds.generic import OBSERVATION, chosen
from saccade.data.rlds.records import Records, RecordsOptions
from saccade.data.rlds.shards import SHARD, described, scan_shard
from saccade.data.video.images import decode_images

CAMERAS = tuple(f"image_{k}" for k in range(4))
STATE, ACTION, LANGUAGE = f"{OBSERVATION}state", "steps/action", "steps/language_instruction"
PICTURES = {OBSERVATION + name: 0 for name in CAMERAS}
KEYS = {STATE: 7, ACTION: 7, LANGUAGE: 0, **PICTURES}  # by which Bridge is known, with widths
BLACK = 2.0  # mean of a picture, of 255, below which it shows nothing


@dataclass(frozen=True, kw_only=True)
class BridgeConfig(RecordsOptions, Config["Bridge"]):
    """Options of ``Bridge``, besides those of ``RecordsOptions``.

    Args:
        cameras: of ``image_0`` (over the shoulder) to ``image_3``; empty for all.
        first: whether to drop the first step, whose action says nothing.
        action: the motion that was commanded, or ``relabelled``: what was measured from each step
            to the next, which drops the last step (as OpenVLA and Octo do).
        gripper: its command as stored (1 open, 0 closed, in between while it moves), or ``binary``
            as OpenVLA makes it (``bridge_conventions.binary``).
    """

    format: ClassVar[str] = "bridge"
    about: ClassVar[str] = "Bridge V2 as RLDS (bridge_dataset, bridge_orig): first, action, gripper"

    cameras: tuple[str, ...] = ()
    first: Literal["drop", "keep"] = "drop"
    action: Action = "commanded"
    gripper: Literal["continuous", "binary"] = "continuous"

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether ``features.json`` has Bridge's keys, and seven numbers for state and action."""
        features = described(folder)
        sizes = {features[key].shape for key in (STATE, ACTION) if key in features}
        return features.keys() >= KEYS.keys() and sizes == {(7,)}

    def build(self) -> "Bridge":
        """Index the records."""
        return Bridge(self)


class Bridge(Episodes):
    """The episodes of all splits, without the steps that the options leave out."""

    fps = FPS
    state_names = action_names = NAMES
    conventions = Conventions(commands="steps", metres=1.0)

    def __init__(self, config: BridgeConfig) -> None:
        self.config = config
        self.records = Records(config, scans=(scan, checked_scan), keys=KEYS)
        self.cameras = chosen(config.cameras, CAMERAS, "cameras", str(config.root))
        self.skipped = self.records.skipped  # of each record that is left out, why
        notes = [self.records.note(i) for i in range(len(self.records))]
        self._black = [tuple(note["black"]) for note in notes]
        self._texts = [list(filter(None, note["texts"].get(LANGUAGE, []))) for note in notes]
        self.tasks = [next(iter(texts), "") for texts in self._texts]
        self._first = int(config.first == "drop")
        left_out = self._first + (config.action == "relabelled")
        self.lengths = [max(steps - left_out, 0) for steps in self.records.steps]
        self.world_to_camera = {}
        options = [config.first, config.action, config.gripper, self.cameras]
        self.fingerprint = self.records.digest(json.dumps(options))

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return states and actions; the gripper is 1 open, 0 closed, as stored."""
        state, action = (
            self.records.rows(episode, [key])[self._first :] for key in (STATE, ACTION)
        )
        if self.config.gripper == "binary":
            action[:, 6] = binary(action[:, 6])
        if self.config.action == "relabelled":
            action = np.concatenate([measured_motion(state), action[:-1, 6:]], 1)
        return state[frames], action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode the pictures of these steps, and no others."""
        return self.records.pictures(episode, OBSERVATION + camera, self._first + frames)

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cameras whose pictures are not black."""
        return tuple(name for name in self.cameras if name not in self._black[episode])

    def about(self, episode: int) -> dict[str, Any]:
        """Return shard and record, split, the place of recording, and where it was stored."""
        source, known = self.records.source(episode), self.records.metadata(episode)
        shard = SHARD.fullmatch(PurePosixPath(source.partition(",")[0]).name)
        place = scene(known.get("file_path", ""))
        return {
            "source": source,
            "tasks": self._texts[episode],
            **({"split": shard["split"]} if shard else {}),
            **({"scene": place} if place else {}),
            **{key: known[key] for key in ("file_path", "episode_id") if key in known},
        }

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return the pictures as they are stored."""
        steps = self._first + np.asarray(frames)
        return list(map(bytes, self.records.jpegs(episode, OBSERVATION + camera, steps)))


def scan(folder: Folder, name: str) -> dict[str, Any]:
    """Scan a shard of Bridge."""
    return scan_shard(folder, name, _summary)


def checked_scan(folder: Folder, name: str) -> dict[str, Any]:
    """Scan a shard of Bridge and compare all of it with its checksums."""
    return scan_shard(folder, name, _summary, check=True)


def _summary(episode: Episode) -> dict[str, Any]:
    return {"black": [name for name in CAMERAS if _is_black(episode, OBSERVATION + name)]}


def _is_black(episode: Episode, key: str) -> bool:
    """Whether all pictures are of one size in bytes, and the first and the last one are black.

    A list of pictures of one size has a multiple of their number of bytes. Nearly all other lists
    are told by that alone, without a look into the file at each picture.
    """
    listed, steps = episode.layout.values.get(key), episode.steps
    if not listed or not steps or sum(end - start for start, end in listed.parts) % steps:
        return False
    spans = episode.spans(key)
    if len(np.unique(spans[:, 1] - spans[:, 0])) > 1:
        return False
    for step in {0, len(spans) - 1}:
        start, end = spans[step].tolist()
        data = bytes(episode.data[start:end])
        picture = decode_images([data], lambda _, step=step: f"{key}, step {step}")
        if picture.numpy().mean() >= BLACK:
            return False
    return True
