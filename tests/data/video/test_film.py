"""The number painted in a picture is the number that was asked for, or there is an error."""

import gc
import multiprocessing
import os
import threading
from fractions import Fraction
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.stream import AudioStream

from saccade.data.video import film as films
from saccade.data.video.codec import VideoInfo, decode_frames, video_info
from saccade.data.video.film import film
from saccade.errors import DataError
from tests.fixtures.films import numbered, numbers, trim, write_film

COUNT = 60
UNEVEN = np.cumsum(np.random.default_rng(1).integers(10, 90, COUNT)).tolist()
OPEN_GROUPS = {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0:keyint=12"}
KINDS = {
    "b-frames.mp4": ("libx264", {"bf": "3", "g": "250"}, None, None),
    "open-groups.mp4": ("libx264", OPEN_GROUPS, None, None),
    "closed.mp4": ("libx264", {"bf": "0", "g": "30"}, None, None),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20"}, None, None),
    "av1.mp4": ("libsvtav1", {"g": "20", "preset": "12"}, None, None),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "deadline": "realtime", "cpu-used": "8"}, None, None),
    "hevc.mp4": (
        "libx265",
        {"x265-params": "keyint=15:open-gop=1:bframes=4:log-level=none:pools=none"},
        None,
        None,
    ),
    "uneven.mp4": ("libx264", {"bf": "3", "g": "20"}, UNEVEN, None),
    "uneven.mkv": ("libx264", {"bf": "3", "g": "20"}, UNEVEN, None),
    "late.mp4": ("libx264", {"bf": "2", "g": "20"}, [500 + 33 * i for i in range(COUNT)], None),
    "no-edits.mp4": ("libx264", {"bf": "3", "g": "20"}, None, {"use_editlist": "0"}),
    "pieces.mp4": (
        "libx264",
        {"bf": "3", "g": "20"},
        None,
        {"movflags": "frag_keyframe+empty_moov"},
    ),
    "mpeg4.avi": ("mpeg4", {"g": "12", "qscale": "3"}, None, None),
}
FRAMES = numbered(COUNT)


def written(path: Path, kind: str) -> Path:
    codec, options, times, flags = KINDS[kind]
    return write_film(path / kind, FRAMES, codec, options, times, flags)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("films"), "b-frames.mp4")


def in_order(path: Path) -> torch.Tensor:
    """Decode everything from the first packet to the last, with nothing of ours."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_the_one_asked_for(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    whole = decode_frames(path, np.arange(COUNT))
    assert numbers(whole) == list(range(COUNT))
    assert torch.equal(whole, in_order(path))
    order = np.random.default_rng(0).permutation(COUNT)
    for k in order.tolist():  # each from wherever the decoder stopped
        assert torch.equal(decode_frames(path, np.array([k]))[0], whole[k]), f"frame {k} differs"
    for asked in ([5, 5, 4], [0, 7, 14, 21, 28], [COUNT - 1, 0], [30, 31, 33, 32], [17, 45]):
        assert torch.equal(decode_frames(path, np.array(asked)), whole[asked])
    codec = {"libx264": "h264", "libx265": "hevc", "libsvtav1": "av1", "libvpx-vp9": "vp9"}
    info = video_info(path)
    assert (info.frames, info.height, info.width) == (COUNT, 64, 96)
    assert info.codec == codec.get(KINDS[kind][0], KINDS[kind][0])
    assert info.fps == pytest.approx(30) or "uneven" in kind or "late" in kind


@pytest.mark.parametrize("kind", ["b-frames.mp4", "closed.mp4", "hevc.mp4", "av1.mp4"])
@pytest.mark.parametrize(("skip", "keep"), [(10, 50), (13, 30), (0, 40)])
def test_an_edit_list_is_kept(tmp_path: Path, kind: str, skip: int, keep: int) -> None:
    path = trim(written(tmp_path, kind), skip, keep)
    assert video_info(path).frames == keep
    frames = np.random.default_rng(0).permutation(keep)
    assert numbers(decode_frames(path, frames)) == (frames + skip).tolist()
    with film(path) as lent:
        assert lent.pts()[0] == 0
    with pytest.raises(DataError, match=f"has {keep} frames, asked for are {keep} to {keep}"):
        decode_frames(path, np.array([keep]))


@pytest.mark.parametrize(
    ("rotation", "turned"),
    [
        ({"degrees": 90}, lambda x: np.rot90(x, 1)),
        ({"degrees": -90}, lambda x: np.rot90(x, -1)),
        ({"degrees": 180}, lambda x: np.rot90(x, 2)),
        ({"degrees": 0, "hflip": True}, np.fliplr),
        ({"degrees": 0, "vflip": True}, np.flipud),
    ],
)
def test_pictures_are_upright(tmp_path: Path, rotation, turned) -> None:
    path = write_film(tmp_path / "a.mp4", FRAMES[:3], rotation=rotation)
    stored = in_order(path)[2].permute(1, 2, 0).numpy()
    found = decode_frames(path, np.array([2]))[0].permute(1, 2, 0).numpy()
    assert np.array_equal(found, turned(stored))
    assert (video_info(path).height, video_info(path).width) == (64, 96)  # as stored


def test_other_angles_are_refused(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", FRAMES[:3], rotation={"degrees": 30})
    with pytest.raises(DataError, match=r"a\.mp4 is to be shown turned by \d+ degrees"):
        decode_frames(path, np.array([0]))


def test_frames_ahead_are_reached_without_starting_again(
    predicted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[int | None] = []
    reach = films.Film._reach

    def watched(self: films.Film, start: int | None):
        starts.append(start)
        return reach(self, start)

    monkeypatch.setattr(films.Film, "_reach", watched)
    films._FILMS.clear()
    for k in range(10, 20):
        decode_frames(predicted, np.array([k]))
    assert [start is None for start in starts] == [False] + 9 * [True]


def test_only_what_is_needed_is_decoded(predicted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About half of the frames before a target are predicted from by none, and left out."""
    given: list[int] = []
    decode = films.Film._decode

    def watched(self: films.Film, start: int):
        for frame in decode(self, start):
            given.append(frame.pts or 0)
            yield frame

    monkeypatch.setattr(films.Film, "_decode", watched)
    films._FILMS.clear()
    assert numbers(decode_frames(predicted, np.array([50]))) == [50]
    assert len(given) < 40


def test_few_files_stay_open(tmp_path: Path) -> None:
    paths = [write_film(tmp_path / f"{i}.mp4", FRAMES[i : i + 2]) for i in range(12)]
    films._FILMS.clear()
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        assert [numbers(decode_frames(path, np.array([1])))[0] for path in paths] == [*range(1, 13)]
    assert len(films._FILMS) == films.OPEN_FILES
    assert len(os.listdir("/proc/self/fd")) - before == films.OPEN_FILES


def test_a_replaced_file_is_opened_again(tmp_path: Path) -> None:
    path = write_film(tmp_path / "a.mp4", FRAMES[:5])
    assert numbers(decode_frames(path, np.array([2]))) == [2]
    write_film(path, FRAMES[20:29])
    assert numbers(decode_frames(path, np.array([2, 8]))) == [22, 28]
    path.unlink()
    with pytest.raises(DataError, match=r"a\.mp4 cannot be read \(.*No such file"):
        decode_frames(path, np.array([2]))


def test_threads_and_forks_do_not_share_a_decoder(predicted: Path) -> None:
    decode_frames(predicted, np.array([30]))  # open, in the middle
    wrong: list[int] = []

    def work() -> None:
        for k in np.random.default_rng(threading.get_ident() % 1000).integers(0, COUNT, 30):
            if numbers(decode_frames(predicted, np.array([k]))) != [k]:
                wrong.append(int(k))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

    def child(channel: SimpleQueue) -> None:
        channel.put((len(films._FILMS), numbers(decode_frames(predicted, np.arange(31, 40)))))

    context = multiprocessing.get_context("fork")
    channel = context.SimpleQueue()
    process = context.Process(target=child, args=(channel,))
    process.start()
    assert numbers(decode_frames(predicted, np.arange(31, 40))) == list(range(31, 40))
    assert channel.get() == (0, list(range(31, 40)))
    process.join()


@pytest.mark.parametrize("kind", ["b-frames.mp4", "vp9.webm", "uneven.mkv", "pieces.mp4"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_a_cut_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = written(tmp_path, kind)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for use in (video_info, lambda path: decode_frames(path, np.arange(2))):
        with pytest.raises(DataError, match=f"{kind} (is cut off|cannot be read)"):
            use(path)


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_cut_file_with_its_index_in_front_is_refused(tmp_path: Path, share: float) -> None:
    """The header still says 60 frames."""
    flags = {"movflags": "faststart"}
    path = write_film(tmp_path / "a.mp4", FRAMES, options={"bf": "0"}, flags=flags)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"a\.mp4 is cut off at \d+ bytes \(it should have \d+"):
        video_info(path)
    with pytest.raises(DataError, match=r"a\.mp4 is cut off at \d+ bytes \(\d+ of 60 frames"):
        decode_frames(path, np.array([0]))


def test_damage_is_never_shown(tmp_path: Path) -> None:
    options = {"bf": "0", "g": "250", "sc_threshold": "0"}
    path = write_film(tmp_path / "a.mp4", FRAMES, options=options)
    with av.open(str(path)) as container:
        start, size = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size][20]
    raw = bytearray(path.read_bytes())
    raw[start : start + size] = b"\xff" * size
    path.write_bytes(raw)
    assert numbers(decode_frames(path, np.arange(15))) == list(range(15))
    for frames in ([20], [40], [59]):  # the others are predicted from it
        with pytest.raises(
            DataError, match=rf"a\.mp4 has no intact frame {frames[0]} \(pts \d+\), but .*Invalid"
        ):
            decode_frames(path, np.array(frames))


def test_what_holds_no_frames_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        assert isinstance(stream, AudioStream)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"sound\.mp4 has no video stream"):
        video_info(tmp_path / "sound.mp4")
    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    with pytest.raises(DataError, match=r"none\.mp4 "):
        video_info(tmp_path / "none.mp4")


def test_a_playlist_is_no_video(tmp_path: Path) -> None:
    """It would open files that the user did not name."""
    real = write_film(tmp_path / "real.mp4", FRAMES[:3])
    (tmp_path / "a.mp4").write_text(f"ffconcat version 1.0\nfile '{real.name}'\n")
    (tmp_path / "b.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{real.name}\n#EXT-X-ENDLIST\n")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(DataError, match=f"{name} cannot be read"):
            video_info(tmp_path / name)


def test_a_name_may_look_like_an_address(tmp_path: Path) -> None:
    folder = tmp_path / "http:" / "Fri_Jul__7_09:42:23_2023"
    folder.mkdir(parents=True)
    path = write_film(tmp_path / "a.mp4", FRAMES[:3]).rename(folder / "a:1.mp4")
    assert video_info(path) == VideoInfo(frames=3, height=64, width=96, codec="h264", fps=30.0)


def test_two_frames_at_one_time_are_refused(tmp_path: Path) -> None:
    times = [0, 40, 80, 80, 120]
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for number, frame in enumerate(FRAMES[:5]):
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame)):
                packet.pts = packet.dts = times[number]
                packet.time_base = Fraction(1, 1000)
                container.mux(packet)
    with pytest.raises(DataError, match="shows 5 frames at 4 different times"):
        video_info(path)
