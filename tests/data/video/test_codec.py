"""Frames come back at their own times, or there is an error."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from saccade.data.video.codec import concatenate, decode, decode_frames, encode
from saccade.errors import DataError

FPS = 80.0


def greys(count: int, first: int = 20) -> np.ndarray:
    """Frame ``i`` is plain grey of level ``first + 5 i``."""
    levels = np.arange(first, first + 5 * count, 5, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, 32, 48, 3)).copy()


def levels(video: torch.Tensor) -> list[int]:
    return [round((float(frame.float().mean()) - 20) / 5) for frame in video]


def write(path: Path, frames: np.ndarray, options: dict[str, str], index_first=False) -> Path:
    """Write as others do: long groups of pictures, some of them predicted from later ones."""
    flags = {"movflags": "faststart"} if index_first else {}
    with av.open(str(path), "w", options=flags) as container:
        stream = container.add_stream("libx264", rate=Fraction(80), options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    return path


@pytest.fixture
def film(tmp_path: Path) -> Path:
    encode(tmp_path / "film.mp4", greys(40), FPS)
    return tmp_path / "film.mp4"


def test_frames_come_in_the_order_asked_for(film: Path) -> None:
    asked = [39, 0, 7, 7, 38, 3]
    found = decode(film, np.array(asked), FPS)
    assert found.shape == (6, 3, 32, 48)
    assert found.dtype == torch.uint8
    assert levels(found) == asked
    assert decode(film, np.array([], int), FPS).shape == (0, 3, 32, 48)


def test_pictures_survive_encoding(tmp_path: Path) -> None:
    row = np.linspace(30, 220, 48).round().astype(np.uint8)
    frames = np.broadcast_to(row[:, None], (3, 32, 48, 3)).copy()
    encode(tmp_path / "a.mp4", frames, FPS)
    found = decode(tmp_path / "a.mp4", np.arange(3), FPS).permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(int) - frames).mean() < 2


def test_noise_of_the_sensor_survives_encoding(tmp_path: Path) -> None:
    """Prediction between frames would make a static background exactly static."""
    rng = np.random.default_rng(0)
    frames = (120 + rng.normal(0, 2, (8, 64, 64, 3))).round().astype(np.uint8)
    encode(tmp_path / "a.mp4", frames, FPS)
    change = np.diff(decode(tmp_path / "a.mp4", np.arange(8), FPS).numpy().astype(int), axis=0)
    assert (change == 0).mean() < 0.35  # 0.14 before encoding
    assert 0.5 < change.mean(1).std() / np.diff(frames.astype(int), axis=0).mean(-1).std() < 1.5


def test_encoding_is_deterministic(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 32, 48, 3)).astype(np.uint8)
    for name in ("a.mp4", "b.mp4"):
        encode(tmp_path / name, frames, 29.97)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o644


def keyframes(path: Path) -> tuple[int, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        kind = stream.codec_context.pix_fmt
        return sum(packet.is_keyframe for packet in container.demux(stream)), str(kind)


@pytest.mark.parametrize("shape", [(6, 32, 48, 3), (6, 33, 49, 3)])
def test_exact_video_keeps_every_bit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    frames = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    encode(tmp_path / "a.mp4", frames, FPS, exact=True)
    for found in (
        decode(tmp_path / "a.mp4", np.arange(6), FPS),
        decode_frames(tmp_path / "a.mp4", np.arange(6)),
    ):
        assert np.array_equal(found.permute(0, 2, 3, 1).numpy(), frames)
    assert keyframes(tmp_path / "a.mp4") == (6, "gbrp")


def test_the_store_can_be_smaller_or_faster(tmp_path: Path) -> None:
    frames = greys(16) + np.random.default_rng(0).integers(0, 20, (1, 32, 48, 3)).astype(np.uint8)
    sizes = {}
    for name, settings in {"plain": {}, "groups": {"gop": 8}, "coarse": {"crf": 30}}.items():
        encode(tmp_path / f"{name}.mp4", iter(frames), FPS, **settings)  # one frame at a time
        sizes[name] = (tmp_path / f"{name}.mp4").stat().st_size
    assert sizes["groups"] < sizes["plain"] > sizes["coarse"]
    encode(tmp_path / "fast.mp4", frames, FPS, gop=8, fastdecode=True)
    assert (keyframes(tmp_path / "plain.mp4")[0], keyframes(tmp_path / "fast.mp4")[0]) == (16, 2)
    found = decode(tmp_path / "fast.mp4", np.arange(16), FPS).permute(0, 2, 3, 1).numpy()
    assert np.abs(found.astype(int) - frames).mean() < 4
    with pytest.raises(DataError, match=r"cannot hold \(32, 46, 3\) beside \(32, 48, 3\)"):
        encode(tmp_path / "a.mp4", [frames[0], frames[1][:, :46]], FPS)


@pytest.mark.parametrize(
    "options",
    [
        {"g": "30", "bf": "0"},
        {"g": "250", "bf": "3"},
        {"g": "10", "bf": "3", "flags": "-cgop"},
    ],
)
def test_every_frame_of_predicted_video_is_found(tmp_path: Path, options: dict[str, str]) -> None:
    path = write(tmp_path / "film.mp4", greys(40), options)
    assert levels(decode(path, np.arange(40), FPS)) == list(range(40))
    for frame in range(40):
        assert levels(decode(path, np.array([frame]), FPS)) == [frame]
    assert levels(decode(path, np.array([35, 2, 20]), FPS)) == [35, 2, 20]


def test_a_time_between_frames_is_an_error(film: Path) -> None:
    assert levels(decode(film, np.array([0]), FPS, 0.2 / FPS)) == [0]
    with pytest.raises(DataError, match=r"film.mp4 has no intact frame at 0.0063 s"):
        decode(film, np.array([0]), FPS, 0.5 / FPS)
    with pytest.raises(DataError, match=r"no intact frame at 0.5000 s, but the end"):
        decode(film, np.array([3, 40]), FPS)
    with pytest.raises(DataError, match="no intact frame"):
        decode(film, np.array([-1]), FPS)


def test_a_lost_frame_is_not_replaced_by_its_neighbour(tmp_path: Path) -> None:
    path = tmp_path / "gap.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(80), options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for i, frame in enumerate(greys(20)):
            if i != 7:
                picture = av.VideoFrame.from_ndarray(frame)
                picture.pts, picture.time_base = i, Fraction(1, 80)
                container.mux(stream.encode(picture))
        container.mux(stream.encode())
    assert levels(decode(path, np.array([6, 8]), FPS)) == [6, 8]
    with pytest.raises(DataError, match=r"no intact frame at 0.0875 s, but 0.1000 s"):
        decode(path, np.array([6, 7, 8]), FPS)


def test_damage_is_an_error_where_it_is_and_nowhere_else(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3)).astype(np.uint8)
    path = tmp_path / "film.mp4"
    encode(path, noise, FPS)
    whole = decode(path, np.arange(40), FPS)
    with av.open(str(path)) as container:
        packets = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    raw, (start, size) = bytearray(path.read_bytes()), packets[20]
    raw[start + size // 2 : start + size // 2 + 64] = bytes(64)
    path.write_bytes(raw)
    around = np.array([0, 19, 21, 39])
    assert torch.equal(decode(path, around, FPS), whole[around])
    with pytest.raises(
        DataError, match=r"film\.mp4 has no intact frame at 0\.2500 s, but .*Invalid"
    ):
        decode(path, np.arange(40), FPS)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_cut_file_never_gives_a_shorter_clip(tmp_path: Path, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 48, 3)).astype(np.uint8)
    for index_first in (False, True):
        path = write(tmp_path / "film.mp4", noise, {"bf": "0"}, index_first)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(DataError, match=r"film\.mp4"):
            decode(path, np.arange(40), FPS)


def test_names_what_is_not_a_video(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.mp4"):
        decode(tmp_path / "none.mp4", np.array([0]), FPS)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"text\.mp4"):
        decode(tmp_path / "text.mp4", np.array([0]), FPS)
    for shape in ((0, 32, 48, 3), (2, 31, 48, 3)):
        with pytest.raises(DataError, match="use even sizes"):
            encode(tmp_path / "odd.mp4", np.zeros(shape, np.uint8), FPS)


@pytest.mark.parametrize("fps", [80.0, 12.5, 29.97])
def test_joined_files_hold_the_same_pictures(tmp_path: Path, fps: float) -> None:
    lengths = [5, 1, 9]
    paths = [tmp_path / f"{i}.mp4" for i in range(3)]
    for path, count in zip(paths, lengths, strict=True):
        encode(path, greys(count, first=20 + count), fps)
    spans = concatenate(paths, tmp_path / "all.mp4")
    ends = np.cumsum(lengths) / fps
    np.testing.assert_allclose([end for _, end in spans], ends, rtol=2e-5)  # 29.97 is 30000/1001
    assert [start for start, _ in spans] == [0.0, *(end for _, end in spans[:-1])]
    for path, count, (start, _) in zip(paths, lengths, spans, strict=True):
        joined = decode(tmp_path / "all.mp4", np.arange(count), fps, start)
        assert torch.equal(joined, decode(path, np.arange(count), fps))


def test_only_files_of_one_kind_are_joined(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", greys(2), FPS)
    encode(tmp_path / "b.mp4", greys(2)[:, :16], FPS)
    with pytest.raises(DataError, match=r"b\.mp4 is not encoded like .*a\.mp4"):
        concatenate([tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "all.mp4")
