"""What a simulator knows of its pictures: how far away each pixel is, and which body it shows.

From this and the motion of bodies, optical flow follows exactly, between any two frames.

A file per episode and camera lies beside a data set, ``truth/CAMERA/episode-000012.safetensors``:
per frame 3 bytes a pixel (depth float16, body uint8; 4 bytes with more than 256 bodies), 64 a body
and 128 for the camera. Of Meta-World at 64 pixels that is 15 kB per frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt16
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from saccade.checkpoint import write_atomic
from saccade.errors import DataError

AGREES = 0.01  # share of the depth by which a point may miss the surface that it lands on
WHOLE = 1e-6  # pixels by which an edge may miss the border of a pixel
STORED = {"depth": "<f2", "body": "<u2", "poses": "<f4", "camera": "<f8", "intrinsics": "<f8"}


@dataclass(frozen=True, kw_only=True)
class SceneTruth:
    """One episode as one camera sees it, in metres; pictures may be larger than this.

    Bodies are whatever moves rigidly. Camera axes are x right, y down, z forward; the centre of
    the first pixel is at 0.

    Args:
        depth: along the camera's z.
        body: which of the bodies a pixel shows, 0 (the world) where it shows nothing.
        poses: of each body, body to world.
        camera: camera to world.
        intrinsics: the camera's matrix, in pixels of ``depth``.
    """

    depth: Float32[np.ndarray, "t h w"]
    body: UInt16[np.ndarray, "t h w"]
    poses: Float32[np.ndarray, "t bodies 4 4"]
    camera: Float64[np.ndarray, "t 4 4"]
    intrinsics: Float64[np.ndarray, "3 3"]

    def __post_init__(self) -> None:
        _check({field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def joined(moments: "list[SceneTruth]") -> "SceneTruth":
        """Put the frames of several together; they share the first one's camera matrix."""
        names = ("depth", "body", "poses", "camera")
        parts = {name: np.concatenate([getattr(m, name) for m in moments]) for name in names}
        return SceneTruth(**parts, intrinsics=moments[0].intrinsics)

    def framed(
        self, matrix: Float64[np.ndarray, "3 3"], size: int, frame: tuple[int, int]
    ) -> "SceneTruth":
        """Cut out what squares show that a framing made of frames; no pixel is resampled.

        Args:
            matrix: how the framing moves pixels (``Framing.matrix``).
            size: side of the square.
            frame: height and width of the frames.

        Raises:
            DataError: the square's edges do not lie between pixels of the truth.
        """
        sides = self.depth.shape[1:]
        rows, columns = (
            self._cut(matrix[axis], axis, size, whole, own)
            for axis, whole, own in zip((1, 0), frame, sides, strict=True)
        )
        shift = np.array([[0, 0, columns.start], [0, 0, rows.start], [0, 0, 0]])
        return SceneTruth(
            depth=self.depth[:, rows, columns],
            body=self.body[:, rows, columns],
            poses=self.poses,
            camera=self.camera,
            intrinsics=self.intrinsics - shift,
        )

    def _cut(
        self, moved: Float64[np.ndarray, "3"], axis: int, size: int, whole: int, own: int
    ) -> slice:
        """Return which of our ``own`` pixels lie under a square, along one axis."""
        ends = (np.array([-0.5, size - 0.5]) - moved[2]) / moved[axis]  # in pixels of the frame
        edges = (ends + 0.5) * own / whole
        if np.abs(edges - np.rint(edges)).max() > WHOLE:
            raise DataError(
                f"squares cut from {whole} pixels lie at {edges.round(3).tolist()} of the truth's "
                f"{own}, between whole ones; frame the whole central square, or collect the truth "
                "at another size"
            )
        return slice(*np.rint(edges).astype(int).tolist())

    def save(self, path: Path) -> None:
        """Write the truth, depth rounded to float16 (one part in 2,000).

        Raises:
            DataError: a depth is too small or too large for float16.
            SpaceError: the disk is full.
        """
        kinds = STORED | {"body": "u1" if self.body.max() < 256 else "<u2"}
        with np.errstate(over="ignore"):  # said below
            arrays = {n: np.ascontiguousarray(getattr(self, n), kind) for n, kind in kinds.items()}
        if not (np.isfinite(arrays["depth"]).all() and arrays["depth"].min() > 0):
            raise DataError(
                f"{path}: depths of {self.depth.min():.3g} to {self.depth.max():.3g} m do not fit "
                "into float16; move the camera's clipping planes"
            )
        write_atomic(path, save(arrays))

    @staticmethod
    def load(path: Path) -> "SceneTruth":
        """Read what ``save`` wrote.

        Raises:
            DataError: the file is missing or damaged, or its arrays do not fit one another.
        """
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); collect it again") from error
        found = {name: array.dtype.kind for name, array in arrays.items()}
        expected = {name: np.dtype(kind).kind for name, kind in STORED.items()}
        if found != expected:
            raise DataError(f"{path} holds {found}, expected {expected}; collect it again")
        try:
            _check(arrays)
        except DataError as error:
            raise DataError(f"{path}: {error}; collect it again") from error
        kinds = STORED | {"depth": "<f4"}
        return SceneTruth(**{n: array.astype(kinds[n]) for n, array in arrays.items()})


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """See that the arrays of a truth fit one another.

    Raises:
        DataError: they do not, or hold what cannot be.
    """
    found = {name: arrays[name].shape for name in STORED}
    pixels, bodies = (*found["depth"], 0, 0, 0)[:3], (*found["poses"], 0, 0)[1]
    expected = {"depth": pixels, "body": pixels, "poses": (pixels[0], bodies, 4, 4)}
    expected |= {"camera": (pixels[0], 4, 4), "intrinsics": (3, 3)}
    if found != expected or 0 in (*pixels, bodies):
        raise DataError(f"the truth of a scene has the shapes {found}, expected {expected}")
    numbers = (arrays[name] for name in ("depth", "poses", "camera", "intrinsics"))
    if not all(np.isfinite(array).all() for array in numbers) or arrays["depth"].min() <= 0:
        raise DataError("the truth of a scene is not finite, or has a depth that is not above 0")
    if (most := arrays["body"].max()) >= bodies:
        raise DataError(f"the truth shows the body {most}, but there are {bodies}")


def flow(
    truth: SceneTruth, first: int, second: int
) -> tuple[Float32[np.ndarray, "2 h w"], Bool[np.ndarray, "h w"]]:
    """Return how far each pixel of a frame has moved in another, and whether it is seen there.

    The flow is right and down, in pixels of the truth (times ``frame width / w`` and ``frame
    height / h`` in pixels of the picture). Where nothing moves it is exactly 0; where a point
    passes the camera's plane it is NaN, and not visible. A point is visible where it lands within
    the frame, on a pixel of its own body, and as deep as the surface of that pixel is at this
    place, give or take 1 percent.

    Raises:
        DataError: there is no such frame.
    """
    length, height, width = truth.depth.shape
    if not (0 <= first < length and 0 <= second < length):
        raise DataError(f"there are no frames {first} and {second}; the truth has {length}")
    body, (relative, still) = truth.body[first], _motion(truth, first, second)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    pixels = np.stack([columns, rows, np.ones_like(rows)])
    points = np.tensordot(np.linalg.inv(truth.intrinsics), pixels, 1) * truth.depth[first]
    motion = relative[body]
    moved = np.einsum("hwij,jhw->ihw", motion[..., :3, :3], points)
    moved += np.moveaxis(motion[..., :3, 3], -1, 0)
    projected = np.tensordot(truth.intrinsics, moved, 1)
    ahead = projected[2] > 0
    place = np.full((2, height, width), np.nan)
    np.divide(projected[:2], projected[2], out=place, where=ahead)
    place = np.where(still[body], pixels[:2], place)
    seen = ahead.copy()
    seen[ahead] = _seen(truth, second, place[:, ahead], projected[2][ahead], body[ahead])
    return (place - pixels[:2]).astype(np.float32), seen


def _motion(
    truth: SceneTruth, first: int, second: int
) -> tuple[Float64[np.ndarray, "bodies 4 4"], Bool[np.ndarray, " bodies"]]:
    """Return what takes a body's points from the first camera's axes to the second's.

    Also which bodies have not moved at all, so that rounding moves none of their pixels.
    """
    poses, camera = truth.poses.astype(np.float64), truth.camera
    moved = poses[second] @ np.linalg.inv(poses[first])
    still = (poses[second] == poses[first]).all((1, 2))
    still &= bool((camera[second] == camera[first]).all())
    return np.linalg.inv(camera[second]) @ moved @ camera[first], still


def _seen(
    truth: SceneTruth,
    frame: int,
    place: Float64[np.ndarray, "2 n"],
    depth: Float64[np.ndarray, " n"],
    body: UInt16[np.ndarray, " n"],
) -> Bool[np.ndarray, " n"]:
    """Say which points that land at a place are what the frame shows there."""
    height, width = truth.depth.shape[1:]
    limits = np.array([[width - 1], [height - 1]])
    inside = ((place >= -0.5) & (place <= limits + 0.5)).all(0)
    nearest = np.rint(place).clip(0, limits)
    column, row = nearest.astype(int)
    there = truth.depth[frame].astype(np.float64)
    slopes = _slopes(there, truth.body[frame])[:, row, column]
    surface = there[row, column] + (slopes * (place - nearest)).sum(0)
    agrees = np.abs(depth - surface) <= AGREES * depth
    return inside & (truth.body[frame, row, column] == body) & agrees


def _slopes(
    depth: Float64[np.ndarray, "h w"], body: UInt16[np.ndarray, "h w"]
) -> Float64[np.ndarray, "2 h w"]:
    """Return how depth grows per pixel, to the right and down, along the surface of a pixel.

    That is the smaller of its changes to both sides: the other may be an edge within a body. A
    pixel that is nearer than both its neighbours, or farther, has no slope.
    """
    slopes = []
    for axis in (1, 0):
        step = np.diff(depth, axis=axis)
        step[np.diff(body.astype(np.int64), axis=axis) != 0] = np.nan
        nothing = np.full_like(depth[:, :1] if axis else depth[:1], np.nan)
        before = np.concatenate([nothing, step], axis)
        after = np.concatenate([step, nothing], axis)
        least = np.where(np.abs(before) < np.abs(after), before, after)
        least = np.where(before * after < 0, 0, least)
        least = np.where(np.isnan(before), after, np.where(np.isnan(after), before, least))
        slopes.append(np.nan_to_num(least, nan=0))
    return np.stack(slopes)
