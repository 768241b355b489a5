"""Does a camera stand still beside the robot, and what do the crops leave of its pictures?

A camera on the wrist moves with the hand, so everything in its pictures moves; beside the robot,
only the arm does. So pictures one step apart are compared along their four edges, there where they
have texture, in steps in which the hand moves. The arm comes in over one edge or two: the edge that
stands for the background is the median of the four.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from saccade.data.passes.contract.findings import (
    POSITION,
    Finding,
    Recording,
    Sample,
    columns_of,
)
from saccade.data.passes.survey import STRIP, shrunk
from saccade.data.transforms import ac_box
from saccade.errors import DataError
from saccade.progress import progress

LOOKED_AT, PAIRS = 24, 4  # episodes, and pairs of frames of each
SIDE = 128  # pixels of the longer edge at which pictures are compared
EDGE = 0.12  # of the picture: how wide an edge is
TEXTURE, CHANGE = 6.0, 12.0  # grey levels: of a gradient, and more than noise and compression
ENOUGH = 0.05  # of an edge's pixels must have texture
FIXED, MOVING = 0.12, 0.35  # shares of textured pixels that change
MOVED = 0.005  # metres that the hand moves in a step that says something
REPEATED, IN_A_ROW = 0.3, 9  # share of frames that repeat the one before, of so many in a row
SAME = 1  # grey level
SMALL = 128  # pixels; shorter sides are enlarged more than twice


@dataclass
class Camera:
    """What was seen of one camera."""

    name: str
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width)
    episodes: int = 0
    pairs: int = 0
    repeated: list[bool] = field(default_factory=list)  # of frames in a row: it is the one before
    edges: list[float] = field(default_factory=list)  # share that changes, of each pair
    centres: list[float] = field(default_factory=list)
    shifts: list[float] = field(default_factory=list)  # metres it moves, where poses are known
    lefts: list[float] = field(default_factory=list)  # metres to the left of the robot's base
    strip: UInt8[Tensor, "t 3 h w"] | None = None
    strip_of: int = -1

    @property
    def verdict(self) -> str:
        """fixed, moving, unclear, or unknown where nothing tells."""
        told = set()
        if self.shifts:
            told.add("fixed" if np.median(self.shifts) < MOVED else "moving")
        if self.edges:
            share = float(np.median(self.edges))
            told.add("fixed" if share < FIXED else "moving" if share > MOVING else "unclear")
        return "unknown" if not told else told.pop() if len(told) == 1 else "unclear"

    @property
    def left(self) -> float | None:
        """Share of episodes in which it stands left of the robot; None where that is unknown."""
        return float(np.mean(np.array(self.lefts) > 0)) if self.lefts else None

    def __str__(self) -> str:
        told = f"{self.name} {self.verdict}"
        if self.edges:
            edge, centre = np.median(self.edges), np.median(self.centres)
            told += f" (background changes by {edge:.0%}, centre by {centre:.0%})"
        if self.shifts:
            told += f" (its pose moves {np.median(self.shifts):.2g} m)"
        return told


def look(sample: Sample) -> list[Camera]:
    """Look at frames of some episodes, through each camera."""
    cameras = {name: Camera(name) for name in sample.source.cameras}
    chosen = sample.recordings[:: max(1, len(sample.recordings) // LOOKED_AT)][:LOOKED_AT]
    with progress("looking at pictures", len(chosen), "episodes") as told:
        for done, recording in enumerate(chosen, 1):
            for name in sample.source.cameras_of(recording.episode):
                if name not in cameras:
                    continue
                try:
                    _glimpse(sample, recording, cameras[name])
                except DataError as error:
                    sample.unreadable[recording.episode] = str(error)
            told(done)
    return list(cameras.values())


def check_cameras(sample: Sample, cameras: list[Camera], asked: str = "") -> list[Finding]:
    """Run every check of cameras; ``asked`` names the one to use."""
    used = choose(cameras, asked)
    return [fixed(sample, cameras, used, asked), pictures(sample, used)]


def choose(cameras: list[Camera], asked: str = "") -> Camera | None:
    """Return the camera to use: as asked, or the first fixed one, on the left if that is known."""
    if asked:
        return next(camera for camera in cameras if camera.name == asked)
    still = [camera for camera in cameras if camera.verdict == "fixed"]
    return max(still, key=lambda camera: camera.left or 0, default=None)


def fixed(sample: Sample, cameras: list[Camera], used: Camera | None, asked: str) -> Finding:
    """Whether the camera stands still beside the robot."""
    check, expected = "camera", "a fixed one beside the robot (the released model: the left)"
    told = "; ".join(map(str, cameras)) or "no cameras"
    verdict, mend = "ok", ""
    if used is None:
        unknown = any(camera.verdict in ("unknown", "unclear") for camera in cameras)
        verdict = "not decidable" if unknown else "fails"
        mend = "look at the pictures, and name one: --camera" if unknown else "use another view"
    elif used.verdict == "moving":
        verdict, mend = "fails", "use a camera that does not move with the hand"
    elif used.verdict != "fixed":
        verdict, mend = "not decidable", "look at its pictures: only the arm may move"
    elif used.left is not None and used.left < 1:
        verdict, mend = "warning", "take the left camera of each episode, or train on this side"
    if used is not None:
        side = "" if used.left is None else f", on the left in {used.left:.0%} of episodes"
        told = f"{'asked for' if asked else 'would use'} {used.name}{side}: {told}"
    return Finding(
        check=check,
        verdict=verdict,
        found=told,
        expected=expected,
        mend=mend,
        numbers={
            "used": used.name if used else None,
            "cameras": {
                camera.name: {
                    "verdict": camera.verdict,
                    "background": float(np.median(camera.edges)) if camera.edges else None,
                    "centre": float(np.median(camera.centres)) if camera.centres else None,
                    "pose_moves": float(np.median(camera.shifts)) if camera.shifts else None,
                    "left": camera.left,
                }
                for camera in cameras
            },
        },
        episodes=max((camera.episodes for camera in cameras), default=0),
        frames=2 * max((camera.pairs for camera in cameras), default=0),
    )


def pictures(sample: Sample, used: Camera | None) -> Finding:
    """What the two official crops leave of a picture."""
    check, expected = (
        "pictures, crops",
        "one size, 128 pixels or more, each frame a new one; one crop",
    )
    if used is None or not used.sizes:
        return sample.undecided(check, expected, "no camera to use")
    (height, width), _ = used.sizes.most_common(1)[0]
    box, square = ac_box(height, width), square_box(height, width)
    kept = [b[2] * b[3] / (height * width) for b in (box, square)]
    squash = box[3] / box[2]
    sizes = ", ".join(f"{h} x {w}" for h, w in used.sizes)
    verdict, mend = "ok", ""
    repeated = float(np.mean(used.repeated)) if used.repeated else 0.0
    if repeated > REPEATED:
        verdict, mend = "fails", "keep each new picture once, at its own time"
    elif len(used.sizes) > 1:
        verdict, mend = "warning", "crops differ with the size: keep one size"
    elif min(height, width) < SMALL:
        verdict, mend = "warning", "record larger pictures: these are enlarged more than twice"
    return Finding(
        check=check,
        verdict=verdict,
        found=f"{sizes}; trained crop {box[2]} x {box[3]} keeps {kept[0]:.0%}, squashed "
        f"{squash:.2f} : 1; square crop {square[2]} x {square[3]} keeps {kept[1]:.0%}"
        + (f"; {repeated:.0%} of frames are the one before" if repeated > REPEATED else ""),
        expected=expected,
        mend=mend,
        numbers={
            "sizes": [list(size) for size in used.sizes],
            "ac_crop": list(box),
            "square_crop": list(square),
            "repeated": repeated,
        },
        episodes=used.episodes,
        frames=2 * used.pairs,
    )


def square_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the central square of a frame: top, left, height and width."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def background_change(
    pair: UInt8[Tensor, "2 3 h w"],
) -> tuple[float, float] | None:
    """Return which shares of background and centre change; None where edges have no texture."""
    height, width = pair.shape[2:]
    scale = min(SIDE / max(height, width), 1.0)
    size = (max(round(height * scale), 8), max(round(width * scale), 8))
    grey = F.interpolate(pair.float().contiguous(), size, mode="bilinear", antialias=True).mean(1)
    difference = grey[1] - grey[0]
    rows, columns = (max(round(side * EDGE), 2) for side in size)
    textured = (_gradient(grey) > TEXTURE).any(0)
    inside = (slice(rows, -rows), slice(columns, -columns))
    edges = (  # without corners, so that what comes in over one is not in another
        (slice(None, rows), inside[1]),
        (slice(-rows, None), inside[1]),
        (inside[0], slice(None, columns)),
        (inside[0], slice(-columns, None)),
    )
    shares = [_share(difference[part], textured[part]) for part in edges]
    known = [share for share in shares if share is not None]
    if len(known) < 2:
        return None
    centre = _share(difference[inside], textured[inside])
    return float(np.median(known)), centre or 0.0


def _share(difference: Float[Tensor, "h w"], textured: Bool[Tensor, "h w"]) -> float | None:
    """Return the share of textured pixels that change by more than the light does."""
    if textured.float().mean() < ENOUGH:
        return None
    changed = (difference - difference.median()).abs() > CHANGE
    return float(changed[textured].float().mean())


def _gradient(grey: Float[Tensor, "2 h w"]) -> Float[Tensor, "2 h w"]:
    down, right = (F.pad(grey.diff(dim=d), p) for d, p in ((1, (0, 0, 0, 1)), (2, (0, 1))))
    return torch.maximum(down.abs(), right.abs())


def _glimpse(sample: Sample, recording: Recording, camera: Camera) -> None:
    """Compare some pairs of frames of one episode; the first episode is kept as a strip."""
    source, i = sample.source, recording.episode
    _poses(sample, i, camera)
    if camera.strip is None:
        frames = np.unique(np.linspace(0, len(recording.times) - 1, STRIP).astype(int))
        video = source.read(i, frames, (camera.name,))["video"][:, 0]
        camera.strip_of, camera.strip = i, shrunk(video)
        camera.sizes[int(video.shape[2]), int(video.shape[3])] += 1
    camera.episodes += 1
    before, after = _moving(sample, recording)
    if not len(before):
        return
    video = source.read(i, np.concatenate([before, after]), (camera.name,))["video"][:, 0]
    row = np.arange(before[0], min(before[0] + IN_A_ROW, len(recording.times)))
    if camera.episodes <= PAIRS and len(row) > 1:
        filmed = source.read(i, row, (camera.name,))["video"][:, 0].short()
        camera.repeated += (filmed.diff(dim=0).abs().amax((1, 2, 3)) <= SAME).tolist()
    if camera.strip_of != i:
        camera.sizes[int(video.shape[2]), int(video.shape[3])] += 1
    for pair in zip(*video.chunk(2), strict=True):
        camera.pairs += 1
        if (shares := background_change(torch.stack(pair))) is not None:
            camera.edges.append(shares[0])
            camera.centres.append(shares[1])


def _moving(
    sample: Sample, recording: Recording
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """Return the frames before and after some steps in which the hand moves, evenly spread."""
    before, after = recording.before, recording.after
    columns = columns_of(sample.source.state_names, POSITION)
    if columns is not None:
        way = recording.state[after][:, columns] - recording.state[before][:, columns]
        moving = np.linalg.norm(way, axis=1) > MOVED
        before, after = before[moving], after[moving]
    spread = np.unique(np.linspace(0, max(len(before) - 1, 0), min(PAIRS, len(before))).astype(int))
    return before[spread], after[spread]


def _poses(sample: Sample, i: int, camera: Camera) -> None:
    """Note where the camera stands and how far it moves, where the data set knows."""
    poses = sample.source.camera_poses(i, camera.name)
    if poses is not None and len(poses):
        places = poses[:, :3, 3]
        camera.shifts.append(float(np.linalg.norm(np.ptp(places, 0))))
        camera.lefts.append(float(places[:, 1].mean()))
