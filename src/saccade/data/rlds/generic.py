"""Any RLDS data set, by its own keys: cameras, states and actions as ``features.json`` names them.

RLDS stores no frame rate, no units and no meaning of a gripper, so those are what the options say
and the numbers are what is stored. DROID and Bridge have readers of their own, which know.
https://github.com/google-research/rlds
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.files.folder import Folder
from saccade.data.rlds.episode import Episode
from saccade.data.rlds.features import Feature, names_of
from saccade.data.rlds.records import Records, RecordsOptions
from saccade.data.rlds.shards import described, is_tfds, scan_shard
from saccade.errors import ConfigError, DataError

OBSERVATION = "steps/observation/"
LANGUAGE = ("language_instruction", "natural_language_instruction", "instruction")
ASSUMED = 10.0  # Hz, where no rate is given
WIDEST = 64  # numbers of a vector that is taken for a state; more is an embedding


@dataclass(frozen=True, kw_only=True)
class RldsConfig(RecordsOptions, Config["Rlds"]):
    """Options of ``Rlds``, besides those of ``RecordsOptions``.

    Args:
        cameras: pictures under ``steps/observation``; empty for all that are RGB or grey.
        state: keys under ``steps/observation`` to be put together; empty for ``state``, else what
            is called ``proprio``, else every vector.
        action: keys under ``steps``; empty for ``action`` and all that is below it.
        fps: RLDS stores no rate: give the robot's, which only times depend on. With 0 it is not
            known: 10 Hz are assumed, and ``about`` says so (``assumed_fps``).
    """

    format: ClassVar[str] = "rlds"
    about: ClassVar[str] = "any RLDS / TFDS data set in TFRecord files, by its own keys; give fps"

    cameras: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    fps: float = 0.0

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether there is a ``features.json`` with steps, or a damaged one of TFDS."""
        return bool(described(folder)) or is_tfds(folder)

    def build(self) -> "Rlds":
        """Index the records."""
        return Rlds(self)


class Rlds(Episodes):
    """Every record of an RLDS data set as an episode."""

    def __init__(self, config: RldsConfig) -> None:
        if not 0 <= config.fps < math.inf:
            raise ConfigError(f"fps is {config.fps}, expected the rate of the robot in Hz")
        self._given, root = config.fps > 0, str(config.root)
        self.fps = config.fps or ASSUMED
        self.records = Records(config, scans=(scan, checked_scan))
        self.skipped = self.records.skipped  # of each record that is left out, why
        features = self.records.features
        self._pictures = picture_keys(features)
        self.cameras = chosen(config.cameras, self._pictures, "cameras", root)
        self._state = _state_keys(features, config.state, root)
        self._action = _action_keys(features, config.action, root)
        self.state_names = names_of(features, self._state)
        self.action_names = names_of(features, self._action)
        self.lengths, self.tasks = self.records.steps, self.records.tasks
        self.world_to_camera = {}
        options = json.dumps([self.fps, self.cameras, self._state, self._action])
        self.fingerprint = self.records.digest(options)

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Put together the vectors of the state, and those of the action."""
        state, action = (self.records.rows(episode, keys) for keys in (self._state, self._action))
        return state[frames], action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode the pictures of these steps, and no others."""
        return self.records.pictures(episode, self._pictures[camera], frames)

    def about(self, episode: int) -> dict[str, Any]:
        """Return shard and record, all instructions, and the rate where it is only assumed."""
        return {
            "source": self.records.source(episode),
            "tasks": self.records.note(episode)["tasks"],
            **({} if self._given else {"assumed_fps": ASSUMED}),
        }

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return the pictures as they are stored."""
        return list(map(bytes, self.records.jpegs(episode, self._pictures[camera], frames)))


def scan(folder: Folder, name: str) -> dict[str, Any]:
    """Scan a shard."""
    return scan_shard(folder, name, _summary)


def checked_scan(folder: Folder, name: str) -> dict[str, Any]:
    """Scan a shard and compare all of it with its checksums."""
    return scan_shard(folder, name, _summary, check=True)


def _summary(episode: Episode) -> dict[str, Any]:
    """Return the instruction, and every one of them."""
    keys = (key for key, f in episode.features.items() if f.kind == "text" and key in episode)
    usual = {key.rsplit("/", 1)[-1]: key for key in keys}
    key = next((usual[name] for name in LANGUAGE if name in usual), None)
    tasks = [text for text in dict.fromkeys(episode.texts(key)) if text] if key else []
    return {"task": next(iter(tasks), ""), "tasks": tasks}


def picture_keys(features: Mapping[str, Feature]) -> dict[str, str]:
    """Return the keys of the cameras, by their names without ``steps/observation/``."""
    return {
        key.removeprefix(OBSERVATION): key
        for key, feature in features.items()
        if key.startswith(OBSERVATION) and _is_camera(key, feature)
    }


def chosen(wanted: Sequence[str], known: Collection[str], what: str, root: str) -> tuple[str, ...]:
    """Return what was asked for, or all of it.

    Raises:
        DataError: something of it is not there.
    """
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise DataError(f"{root} has no {what} {unknown}; it has {sorted(known)}")
    return tuple(dict.fromkeys(wanted)) or tuple(known)


def _is_camera(key: str, feature: Feature) -> bool:
    """Whether pictures are RGB or grey, and not depth or labels of more than 8 bits."""
    channels = feature.shape[2] if feature.shape and len(feature.shape) == 3 else 3
    grey_or_rgb = feature.dtype == "uint8" and channels in (1, 3)
    return feature.kind == "image" and feature.per_step and grey_or_rgb and "depth" not in key


def _is_vector(feature: Feature) -> bool:
    """Whether there is a number or a short vector for each step."""
    narrow = feature.shape is not None and len(feature.shape) < 2 and feature.size <= WIDEST
    return feature.per_step and feature.kind in ("number", "packed") and narrow


def _state_keys(
    features: Mapping[str, Feature], wanted: Sequence[str], root: str
) -> tuple[str, ...]:
    known = {
        key.removeprefix(OBSERVATION): key
        for key, feature in features.items()
        if key.startswith(OBSERVATION) and _is_vector(feature) and feature.dtype != "bool"
    }
    proprio = [name for name in known if "proprio" in name]
    usual = ["state"] if "state" in known else proprio
    return tuple(known[name] for name in chosen(wanted or usual, known, "vectors", root))


def _action_keys(
    features: Mapping[str, Feature], wanted: Sequence[str], root: str
) -> tuple[str, ...]:
    known = {
        key.removeprefix("steps/"): key for key, feature in features.items() if _is_vector(feature)
    }
    usual = [name for name in known if name == "action" or name.startswith("action/")]
    names = chosen(wanted, known, "vectors", root) if wanted else usual
    return tuple(known[name] for name in names)
