"""Raw Bridge V2: a folder per trajectory, with pickles for the numbers and a JPEG per frame.

Pickles are read without running them (``pickles``). Pictures stay as they are, 480 x 640; the
RLDS and NumPy forms squash them to a square. Depth is not read. A trajectory has one action less
than frames: the last frame, which no action follows, gets no motion and the gripper as it was
commanded before (``about`` says ``padded_last_action``).

Before 2021-07-23 pictures and states were recorded one step late. As the official conversion does,
the first frame is left out there, and so is the last action: ``obs[1:]`` goes with
``actions[:-1]``. https://github.com/rail-berkeley/bridge_data_v2
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt8
from torch import Tensor

from saccade.config import Config
from saccade.data.bridge import raw_files as files
from saccade.data.bridge.conventions import FPS, NAMES, Action, measured_motion, with_last
from saccade.data.episodes import Conventions, Episodes
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder, natural, open_folder
from saccade.data.files.index import index
from saccade.data.video.images import decode_images
from saccade.errors import DataError

Numbers = tuple[Float32[np.ndarray, "t 7"], Float32[np.ndarray, "t 7"]]

VERSION = 1  # of the scans
KEPT = 256  # trajectories whose numbers stay in memory, some 2 kB each


@dataclass(frozen=True, kw_only=True)
class BridgeRawConfig(Config["BridgeRaw"]):
    """Options of ``BridgeRaw``.

    Args:
        root: any folder at or above ``raw/traj_group0``.
        cameras: of ``image_0`` (over the shoulder) to ``image_3``; empty for all that there are.
        action: the motion that was commanded, or ``relabelled``: what was measured from each frame
            to the next (as OpenVLA does it, see ``bridge_conventions.measured_motion``). The
            gripper is the commanded one in both.
        delay: ``dated``: one frame where the folder's name says before 2021-07-23; or ``none`` or
            ``one`` whatever it says.
        clock: ``recorded`` where the time of frames was, else ``even``, 1/5 s apart.
        on_error: ``skip`` leaves out broken trajectories, up to ``most_skipped`` of all.
    """

    format: ClassVar[str] = "bridge_raw"
    about: ClassVar[str] = "raw Bridge V2: pickles and JPEG per trajectory; action, delay, clock"

    root: str | Path
    cameras: tuple[str, ...] = ()
    action: Action = "commanded"
    delay: Literal["dated", "none", "one"] = "dated"
    clock: Literal["recorded", "even"] = "recorded"
    on_error: OnError = "raise"
    most_skipped: float = 0.01

    @staticmethod
    def recognises(folder: Folder) -> bool:
        """Whether a ``traj_group<n>`` is found soon."""
        return files.recognised(folder)

    def build(self) -> "BridgeRaw":
        """Index the trajectories."""
        return BridgeRaw(self)


class BridgeRaw(Episodes):
    """Every trajectory, in the order of its folder's name. ``skipped`` says which are not there.

    Raises:
        DataError: there are none, or one is broken.
    """

    fps = FPS
    state_names = action_names = NAMES
    conventions = Conventions(commands="steps", metres=1.0)

    def __init__(self, config: BridgeRawConfig) -> None:
        self.config, self._folder = config, open_folder(config.root)
        self._places, found, texts = self._index()
        self._texts = [texts.get(place + files.LANGUAGE, []) for place in self._places]
        self._lags = [self._lag(place) for place in self._places]
        self._sees = [tuple(sorted(one["cameras"], key=natural)) for one in found]
        known = sorted({name for names in self._sees for name in names}, key=natural)
        unknown = sorted(set(config.cameras) - set(known))
        if unknown:
            raise DataError(f"{config.root} has no cameras {unknown}; it has {known}")
        self.cameras = tuple(dict.fromkeys(config.cameras)) or tuple(known)
        frames = [one["frames"] for one in found]
        self.lengths = [max(n - lag, 0) for n, lag in zip(frames, self._lags, strict=True)]
        self.tasks = [next(iter(texts), "") for texts in self._texts]
        self.world_to_camera = {}
        even = [(np.arange(n) / FPS).tolist() for n in frames]
        recorded = (one["times"] if config.clock == "recorded" else None for one in found)
        times = [own or rest for own, rest in zip(recorded, even, strict=True)]
        self._times = np.concatenate([np.empty(0), *times])
        self._starts = np.cumsum([0, *frames])
        contents = [one["digest"] for one in found]
        options = [config.action, config.clock, self._lags, self.cameras]
        record = json.dumps([self._places, contents, self._texts, options])
        self.fingerprint = hashlib.sha256(record.encode()).hexdigest()[:16]
        self._kept: OrderedDict[int, Numbers] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def numbers(
        self, episode: int, frames: Int64[np.ndarray, " t"]
    ) -> tuple[Float32[np.ndarray, "t s"], Float32[np.ndarray, "t a"]]:
        """Return states and actions; the gripper is 1 open, 0 closed, as stored."""
        # Threads may come here at once: each step is one that the interpreter does not interrupt.
        kept = self._kept.pop(episode, None) or self._load(episode)
        self._kept[episode] = kept
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        state, action = kept
        return state[frames], action[frames]

    def pixels(
        self, episode: int, camera: str, frames: Int64[np.ndarray, " t"]
    ) -> UInt8[Tensor, "t 3 h w"]:
        """Decode the pictures of these frames."""
        names = self._pictures(episode, camera, frames)
        data = list(map(self._folder.read, names))
        return decode_images(data, lambda i: self._folder.label(names[i]))

    def timestamps(self, episode: int) -> Float64[np.ndarray, " t"]:
        """Return when each frame was recorded, in seconds from the first; else evenly."""
        first, end = self._starts[episode] + self._lags[episode], self._starts[episode + 1]
        times = self._times[first:end]
        return times - times[:1]

    def cameras_of(self, episode: int) -> tuple[str, ...]:
        """Return the cameras of which there are pictures."""
        return tuple(name for name in self.cameras if name in self._sees[episode])

    def about(self, episode: int) -> dict[str, Any]:
        """Return every instruction, the folder, the place of recording, and what was made up."""
        place = self._places[episode]
        scene = files.scene(place)
        return {
            "source": place.rstrip("/"),
            "tasks": self._texts[episode],
            **({"scene": scene} if scene else {}),
            "delay": self._lags[episode],
            "padded_last_action": self.lengths[episode] > 0,
        }

    def encoded(
        self, episode: int, camera: str, frames: Int[np.ndarray, " t"]
    ) -> list[bytes] | None:
        """Return the pictures as they are stored."""
        return list(map(self._folder.read, self._pictures(episode, camera, frames)))

    def _index(self) -> tuple[list[str], list[dict[str, Any]], dict[str, list[str]]]:
        """Return the good trajectories, what is known of each, and their instructions by file."""
        config, folder = self.config, self._folder
        present = files.trajectories(folder)
        if not present:
            raise DataError(
                f"{config.root} has no raw/traj_group*/traj*; give a folder of raw Bridge V2"
            )
        skipped = Skipped(config.on_error, config.most_skipped)
        for place, children in present.items():
            lacking = {files.OBSERVED, files.COMMANDED} - set(children)
            if lacking:
                text = f"{folder.label(place)} has no {', '.join(sorted(lacking))}; unpack it again"
                skipped.add(place, DataError(text))
        whole = [place for place in present if place not in skipped.found]
        limits = config.on_error, 1.0  # the share of all together counts, below
        names = [place + files.OBSERVED for place in whole]
        found, faults = index(folder, names, files.scan, VERSION, *limits)
        names = [p + files.LANGUAGE for p in whole if files.LANGUAGE in present[p]]
        texts, more = index(folder, names, files.scan_language, VERSION, *limits)
        skipped.found |= {
            name.rpartition("/")[0] + "/": why for name, why in (faults | more).items()
        }
        for place in whole:
            if place not in skipped.found:
                with skipped.guard(place):
                    self._check_clock(place, found[place + files.OBSERVED]["times"])
                    self._lag(place)
        skipped.settle(len(present), "trajectories")
        self.skipped = skipped.found
        good = [place for place in whole if place not in skipped.found]
        if not good:
            raise DataError(f"{config.root} has no whole trajectory; unpack it again")
        return good, [found[place + files.OBSERVED] for place in good], texts

    def _check_clock(self, place: str, times: Sequence[float] | None) -> None:
        back = np.flatnonzero(np.diff(times or []) <= 0)
        if len(back) and self.config.clock == "recorded":
            raise DataError(
                f"{self._folder.label(place + files.OBSERVED)}, time_stamp: frame {back[0] + 1} is "
                f"no later than frame {back[0]}; give clock=even"
            )

    def _lag(self, place: str) -> int:
        fixed = {"none": 0, "one": 1}
        delay = self.config.delay
        return files.lag(self._folder, place) if delay == "dated" else fixed[delay]

    def _pictures(self, episode: int, camera: str, frames: Int[np.ndarray, " t"]) -> list[str]:
        number, lag = camera.removeprefix("image_"), self._lags[episode]
        place = f"{self._places[episode]}images{number}/im_"
        return [f"{place}{t + lag}.jpg" for t in frames.tolist()]

    def _load(self, episode: int) -> Numbers:
        found, lag = files.load(self._folder, self._places[episode]), self._lags[episode]
        state, action = found.state[lag:], found.action[: max(len(found.action) - lag, 0)]
        if len(state) != self.lengths[episode]:
            raise DataError(
                f"{self._folder.label(self._places[episode])} has {len(state)} frames now, it had "
                f"{self.lengths[episode]} when it was opened; open it again"
            )
        if self.config.action == "relabelled":
            action = np.concatenate([measured_motion(state), action[:, 6:]], 1)
        return state, with_last(action, state)
