"""Flow of scenes that are small enough to be worked out by hand, and the truth on disk."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from saccade.data.cache.reader import CachedEpisodes
from saccade.data.episodes import Subset
from saccade.data.framed import FramedEpisodes
from saccade.data.synthetic import Synthetic, SyntheticConfig
from saccade.data.transforms import Framing
from saccade.data.truth import SceneTruth, flow
from saccade.errors import DataError
from saccade.geometry import rotation_vector_to_matrix

SIDE, FOCAL, CENTRE = 9, 10.0, 4.0
MATRIX = np.array([[FOCAL, 0, CENTRE], [0, FOCAL, CENTRE], [0, 0, 1]])
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float64)


def pose(place=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return a pose; ``turn`` is a rotation vector."""
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = rotation_vector_to_matrix(np.array(turn, float)), place
    return made


def scene(depth, body, poses, camera=None) -> SceneTruth:
    """Make a scene of frames; a number for a depth or a body is that of every pixel."""
    count = len(poses)
    shape = (count, SIDE, SIDE)
    return SceneTruth(
        depth=np.broadcast_to(np.array(depth, np.float32), shape).copy(),
        body=np.broadcast_to(np.array(body, np.uint16), shape).copy(),
        poses=np.array(poses, np.float32),
        camera=np.array(camera if camera is not None else [np.eye(4)] * count),
        intrinsics=MATRIX,
    )


def per_frame(*numbers: float) -> np.ndarray:
    return np.array(numbers)[:, None, None]


def test_a_plane_that_slides_moves_every_pixel_alike() -> None:
    """0.4 m to the right and 0.2 m up, 2 m away, at a focal length of 10 pixels: 2 and -1."""
    truth = scene(2.0, 1, [[pose(), pose((5.0, 1.0, 2.0))], [pose(), pose((5.4, 0.8, 2.0))]])
    found, visible = flow(truth, 0, 1)
    np.testing.assert_allclose(found[0], 2, atol=1e-5)  # poses are float32
    np.testing.assert_allclose(found[1], -1, atol=1e-5)
    expected = (COLUMNS + 2 <= SIDE - 1) & (ROWS - 1 >= 0)
    assert np.array_equal(visible, expected)


def test_a_plane_that_comes_nearer_grows_from_the_centre() -> None:
    truth = scene(per_frame(2, 1), 1, [[pose(), pose()], [pose(), pose((0, 0, -1))]])
    found, visible = flow(truth, 0, 1)
    np.testing.assert_allclose(found[0], COLUMNS - CENTRE, atol=1e-6)  # twice as far out
    np.testing.assert_allclose(found[1], ROWS - CENTRE, atol=1e-6)
    assert np.array_equal(visible, (abs(COLUMNS - 4) <= 2) & (abs(ROWS - 4) <= 2))
    back, seen = flow(truth, 1, 0)
    np.testing.assert_allclose(back[0], (CENTRE - COLUMNS) / 2, atol=1e-6)
    assert seen.all()


def test_a_quarter_turn_takes_right_to_down() -> None:
    """About the camera's z, which points away: what was right of the centre is below it."""
    turned = pose((0, 0, 3), (0, 0, np.pi / 2))
    truth = scene(3.0, 1, [[pose(), pose((0, 0, 3))], [pose(), turned]])
    found, visible = flow(truth, 0, 1)
    x, y = COLUMNS - CENTRE, ROWS - CENTRE
    np.testing.assert_allclose(found, np.stack([-y - x, x - y]), atol=1e-5)
    assert visible.all()


def test_a_body_turns_about_its_own_place_and_not_the_worlds() -> None:
    """A point one metre right of the body's centre comes towards the camera by a metre."""
    before, after = pose((0.0, 0.0, 4.0)), pose((0.0, 0.0, 4.0), (0, np.pi / 2, 0))
    truth = scene(4.0, 1, [[pose(), before], [pose(), after]])
    found, _ = flow(truth, 0, 1)
    # pixel (4 + 2.5, 4) is 1 m right; columns are whole: use x = 0.8 m, column 6
    x = 0.8
    assert found[0, 4, 6] == pytest.approx(FOCAL * 0 / (4 - x) - 2, abs=1e-5)
    assert found[1, 8, 6] == pytest.approx(FOCAL * 1.6 / (4 - x) - 4, abs=1e-5)


def test_a_camera_that_moves_right_sees_the_world_move_left() -> None:
    camera = [pose((1, 2, 3)), pose((1.2, 2, 3))]
    truth = scene(2.0, 0, [[pose()], [pose()]], camera)
    found, visible = flow(truth, 0, 1)
    np.testing.assert_allclose(found[0], -1, atol=1e-9)
    np.testing.assert_allclose(found[1], 0, atol=1e-9)
    assert np.array_equal(visible, COLUMNS >= 1)


def test_a_camera_that_turns_moves_pixels_by_a_homography_whatever_their_depth() -> None:
    rng = np.random.default_rng(0)
    turn = rotation_vector_to_matrix(np.array([0.02, -0.05, 0.1]))
    camera = [np.eye(4), np.eye(4)]
    camera[1][:3, :3] = turn
    truth = scene(rng.uniform(1, 5, (2, SIDE, SIDE)), 0, [[pose()], [pose()]], camera)
    pixels = np.stack([COLUMNS, ROWS, np.ones_like(ROWS)])
    there = np.tensordot(MATRIX @ turn.T @ np.linalg.inv(MATRIX), pixels, 1)
    expected = there[:2] / there[2] - pixels[:2]
    np.testing.assert_allclose(flow(truth, 0, 1)[0], expected, atol=1e-6)


def test_nothing_moves_where_nothing_moves() -> None:
    rng = np.random.default_rng(1)
    depth = np.tile(rng.uniform(1, 5, (SIDE, SIDE)), (2, 1, 1))
    body = np.tile(rng.integers(0, 2, (SIDE, SIDE)), (2, 1, 1))
    place = pose((0.3, 0.1, 2), (0.1, 0.2, 0.3))
    camera = [pose((1, 2, 3), (0.3, 0.2, 0.1))] * 2
    found, visible = flow(scene(depth, body, [[pose(), place]] * 2, camera), 0, 1)
    assert not found.any()
    assert visible.all()
    # a body that a moving camera carries does not move in the picture, but the world does
    carried = pose((0.5, 0, 0)) @ place
    camera = [np.eye(4), pose((0.5, 0, 0))]
    found, _ = flow(scene(depth, body, [[pose(), place], [pose(), carried]], camera), 0, 1)
    np.testing.assert_allclose(found[:, body[0] == 1], 0, atol=1e-5)
    assert (found[0, body[0] == 0] <= -1).all()


def slid(before: int, after: int) -> np.ndarray:
    """Return bodies of a wall with a narrow pillar, before and after the pillar has moved."""
    body = np.zeros((2, SIDE, SIDE), int)
    body[0, :, before], body[1, :, after] = 1, 1
    return body


def test_what_a_body_moves_in_front_of_is_not_visible() -> None:
    """A pillar at 1 m moves from column 2 to column 5; the wall at 2 m does not."""
    body = slid(2, 5)
    depth = np.where(body == 1, 1.0, 2.0)
    truth = scene(depth, body, [[pose(), pose()], [pose(), pose((0.3, 0, 0))]])
    found, visible = flow(truth, 0, 1)
    np.testing.assert_allclose(found[0], np.where(body[0] == 1, 3, 0), atol=1e-5)
    assert np.array_equal(visible, COLUMNS != 5)
    assert visible[:, 2].all()  # the pillar itself


def test_depth_tells_what_is_hidden_where_all_is_one_body() -> None:
    """The camera moves right by 0.2 m: the pillar goes from column 4 to 2, the wall by 1."""
    depth = np.where(slid(4, 2) == 1, 1.0, 2.0)
    truth = scene(depth, 0, [[pose()]] * 2, [np.eye(4), pose((0.2, 0, 0))])
    found, visible = flow(truth, 0, 1)
    np.testing.assert_allclose(found[0], np.where(depth[0] == 1, -2, -1), atol=1e-6)
    assert not visible[:, 3].any()  # lands on column 2, behind the pillar
    assert not visible[:, 0].any()  # leaves the picture
    assert visible[:, [1, 2, 4, 5, 6, 7, 8]].all()


def test_a_slope_is_visible_between_its_pixels_and_one_percent_is_the_tolerance() -> None:
    """A plane z = 2 + x, seen by a camera that moves right by 0.1 m."""

    def depths(camera: float) -> np.ndarray:
        return (2 + camera) / (1 - (COLUMNS - CENTRE) / FOCAL)  # z = 2 + camera + z * ray

    poses, camera = [[pose()]] * 2, [pose(), pose((0.1, 0, 0))]
    first, second = depths(0.0), depths(0.1)
    assert (np.abs(np.diff(first)) / first[:, 1:] > 0.05).all()  # steep: 5 percent a pixel
    for factor, share in ((1.0, 1.0), (1.005, 1.0), (0.995, 1.0), (1.06, 0.0), (0.94, 0.0)):
        truth = scene(np.stack([first, second * factor]), 0, poses, camera)
        assert flow(truth, 0, 1)[1][:, 1:-1].mean() == share, factor


def test_what_passes_the_camera_is_nowhere() -> None:
    truth = scene(1.0, 1, [[pose(), pose()], [pose(), pose((0, 0, -1.5))]])
    found, visible = flow(truth, 0, 1)
    assert np.isnan(found).all()
    assert not visible.any()


def test_frames_that_are_not_there_are_refused() -> None:
    truth = scene(1.0, 0, [[pose()]] * 3)
    for first, second in ((0, 3), (-1, 0)):
        message = f"there are no frames {first} and {second}; the truth has 3"
        with pytest.raises(DataError, match=re.escape(message)):
            flow(truth, first, second)


@pytest.fixture
def moving() -> SceneTruth:
    rng = np.random.default_rng(2)
    poses = [[pose(), pose(rng.normal(size=3), rng.normal(size=3))] for _ in range(4)]
    camera = [pose(rng.normal(size=3)) for _ in range(4)]
    depth, body = rng.uniform(0.5, 9, (4, SIDE, SIDE)), rng.integers(0, 2, (4, SIDE, SIDE))
    return scene(depth, body, poses, camera)


def test_what_is_saved_is_read_and_the_bytes_are_the_same(
    moving: SceneTruth, tmp_path: Path
) -> None:
    one, two = tmp_path / "deep" / "one.safetensors", tmp_path / "two.safetensors"
    moving.save(one)
    flipped = replace(moving, depth=np.asfortranarray(moving.depth))  # same values, other memory
    flipped.save(two)
    assert one.read_bytes() == two.read_bytes()
    found = SceneTruth.load(one)
    np.testing.assert_allclose(found.depth, moving.depth, rtol=2**-11)
    for name in ("body", "poses", "camera", "intrinsics"):
        assert np.array_equal(getattr(found, name), getattr(moving, name)), name
    assert [getattr(found, f.name).dtype for f in fields(found)] == [
        getattr(moving, f.name).dtype for f in fields(found)
    ]
    frames = 4 * (SIDE**2 * 3 + 2 * 64 + 128)
    assert frames + 72 < one.stat().st_size < frames + 72 + 400  # of which the header
    many = replace(moving, poses=np.tile(np.eye(4, dtype=np.float32), (4, 300, 1, 1)))
    many = replace(many, body=moving.body + np.uint16(298))
    many.save(two)
    assert np.array_equal(SceneTruth.load(two).body, many.body)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("depth", lambda a: a[:, :-1], r"has the shapes.*'depth': \(4, 8, 9\)"),
        ("poses", lambda a: a[:3], r"'poses': \(3, 2, 4, 4\)"),
        ("camera", lambda a: a[:, :3], r"'camera': \(4, 3, 4\)"),
        ("intrinsics", lambda a: a[:2], r"'intrinsics': \(2, 3\)"),
        ("depth", lambda a: a * 0, "a depth that is not above 0"),
        ("camera", lambda a: a * np.nan, "is not finite"),
        ("body", lambda a: a + np.uint8(1), "shows the body 2, but there are 2"),
        ("body", lambda a: a.astype(np.float32), "'body': 'f'"),
    ],
)
def test_a_file_that_does_not_fit_is_named(
    moving: SceneTruth, tmp_path: Path, name: str, change: Any, message: str
) -> None:
    path = tmp_path / "a.safetensors"
    moving.save(path)
    arrays = load_file(path)
    save_file(arrays | {name: np.ascontiguousarray(change(arrays[name]))}, path)
    with pytest.raises(DataError, match=f"a.safetensors.*{message}.*collect it again"):
        SceneTruth.load(path)


def test_a_file_that_is_cut_off_or_absent_is_named(moving: SceneTruth, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    moving.save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"a.safetensors cannot be read .*collect it again"):
        SceneTruth.load(path)
    with pytest.raises(DataError, match=r"b.safetensors cannot be read"):
        SceneTruth.load(tmp_path / "b.safetensors")


def test_a_depth_beyond_float16_is_refused(moving: SceneTruth, tmp_path: Path) -> None:
    for factor in (1e5, 1e-9):
        far = replace(moving, depth=moving.depth * np.float32(factor))
        with pytest.raises(DataError, match="do not fit into float16"):
            far.save(tmp_path / "a.safetensors")
    assert not any(tmp_path.iterdir())


class Known(Synthetic):
    """A reader of 32-pixel frames that knows a truth of 16 by 16."""

    def truth(self, episode: int, camera: str) -> SceneTruth | None:
        if camera not in self.cameras or episode == 1:
            return None
        rng, count = np.random.default_rng(episode), self.lengths[episode]
        return SceneTruth(
            depth=rng.uniform(1, 2, (count, 16, 16)).astype(np.float32),
            body=np.zeros((count, 16, 16), np.uint16),
            poses=np.tile(np.eye(4, dtype=np.float32), (count, 1, 1, 1)),
            camera=np.stack([pose((0.02 * i, 0, 0)) for i in range(count)]),
            intrinsics=np.array([[20, 0, 7.5], [0, 20, 7.5], [0, 0, 1.0]]),
        )


def test_squares_of_a_picture_have_the_truth_of_what_they_show(tmp_path: Path) -> None:
    known = Known(SyntheticConfig(episodes=3, length=4))
    side = known.pixels(0, known.cameras[0], np.zeros(1, np.int64)).shape[2]
    camera, whole = known.cameras[0], known.truth(0, known.cameras[0])
    assert whole is not None
    same = FramedEpisodes(known, Framing(size=48)).truth(0, camera)
    assert same is not None
    assert np.array_equal(same.depth, whole.depth)  # resizing cuts nothing
    assert np.array_equal(same.intrinsics, whole.intrinsics)
    cached = CachedEpisodes(known, tmp_path, 48).truth(2, camera)
    plain = known.truth(2, camera)
    assert cached is not None
    assert plain is not None
    assert np.array_equal(cached.depth, plain.depth)
    inner = FramedEpisodes(known, Framing(size=24, edge=32)).truth(0, camera)  # 3 / 4 of it
    assert inner is not None
    assert np.array_equal(inner.depth, whole.depth[:, 2:14, 2:14])
    assert inner.intrinsics.tolist() == [[20, 0, 5.5], [0, 20, 5.5], [0, 0, 1]]
    np.testing.assert_allclose(flow(inner, 0, 1)[0], flow(whole, 0, 1)[0][:, 2:14, 2:14], atol=1e-6)
    with pytest.raises(DataError, match="between whole ones; frame the whole central square"):
        FramedEpisodes(known, Framing(size=25, edge=32)).truth(0, camera)
    assert FramedEpisodes(known, Framing(size=48)).truth(1, camera) is None
    assert side % 16 == 0


def test_a_wide_picture_is_cut_along_its_width_alone(moving: SceneTruth) -> None:
    wide = replace(moving, depth=moving.depth[:, :6], body=moving.body[:, :6])  # 9 by 6 pixels
    framing = Framing(size=10)
    with pytest.raises(DataError, match=r"squares cut from 18 pixels lie at \[1.5, 7.5\]"):
        wide.framed(framing.matrix(12, 18), 10, (12, 18))
    wide = replace(moving, depth=moving.depth[:, :5], body=moving.body[:, :5])  # 9 by 5
    cut = wide.framed(framing.matrix(10, 18), 10, (10, 18))
    assert np.array_equal(cut.depth, wide.depth[:, :, 2:7])
    assert (cut.intrinsics - wide.intrinsics).tolist() == [[0, 0, -2], [0, 0, 0], [0, 0, 0]]


def test_parts_of_a_data_set_know_their_own_truth() -> None:
    known = Known(SyntheticConfig(episodes=3, length=4))
    camera = known.cameras[0]
    part, third = Subset(known, [2, 1]), known.truth(2, known.cameras[0])
    found = part.truth(0, camera)
    assert found is not None
    assert third is not None
    assert np.array_equal(found.depth, third.depth)
    assert part.truth(1, camera) is None
    assert SyntheticConfig(episodes=2, length=3).build().truth(0, camera) is None
