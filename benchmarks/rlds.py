"""Clips from an RLDS data set against tf.data, and against decoding alone.

The data set is like DROID: three cameras of 180 x 320, JPEGs of 21 kB. A sample is one random
clip of 16 frames of one camera of one episode, its shortest edge resized to 292, the central 256
pixels cut out; as uint8, or as float32 with ImageNet's normalisation. Checksums are compared.

With ``--peers`` the same is done by tf.data in an environment of its own, which is made when it
is not there (2 GB). Each variant runs in short processes by turns; compared is the CPU time of all
their threads. Random clips are compared with simplejpeg decoding the same pictures from a list.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
import tyro
from timing import Work, emit, measure, ratio
from torch import Tensor

from saccade.data.droid.rlds import Droid, DroidConfig
from saccade.data.files.index import cache_folder
from saccade.data.transforms import normalise, shortest_edge_crop

PEER = Path(__file__).parent / "peers" / "rlds_tf.py"
NEEDS = ("tensorflow-cpu==2.21.0", "tensorflow-datasets==4.9.10")
CAMERA, FRAMES, CROP, THREADS = "exterior_1", 16, 256, 2
Variant = Literal["float32", "uint8"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time the reading of clips.

    Args:
        episodes: of the data set that is written for the occasion.
        steps: of each episode.
        clips: of one slice.
        repeats: rounds; each variant gets one slice of each.
        peers: run tf.data too.
        slice: used by the benchmark itself: run one variant on the data set ``root``.
    """

    episodes: int = 12
    steps: int = 150
    clips: int = 60
    repeats: int = 7
    peers: bool = False
    slice: Variant | None = None
    root: Path | None = None


def write_data(root: Path, options: Options) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.fixtures.rlds import write_droid

    write_droid(root, [options.steps] * options.episodes, (180, 320))


def run_slice(variant: Variant, root: Path, clips: int) -> dict[str, float]:
    """Read clips in this process, which was started for it."""
    torch.set_num_threads(1)  # two clips at once instead
    episodes = DroidConfig(root=root, cameras=(CAMERA,)).build()
    order = episodes.records.order()
    rng = np.random.default_rng(0)
    first = [int(rng.integers(episodes.lengths[i] - FRAMES + 1)) for i in order]
    shape = (FRAMES, CROP, CROP, 3)
    kind = torch.float32 if variant == "float32" else torch.uint8
    kept = [torch.empty(shape, dtype=kind).permute(0, 3, 1, 2) for _ in range(THREADS + 2)]

    def clip(number: int) -> Tensor:
        which, out = number % len(order), kept[number % len(kept)]
        steps = first[which] + np.arange(FRAMES)
        video = shortest_edge_crop(episodes.pixels(order[which], CAMERA, steps), 292, CROP)
        return normalise(video, out.transpose(0, 1)) if variant == "float32" else out.copy_(video)

    reading = episodes.records.scan(clip, range(4 + clips), THREADS)
    next(reading)
    begun = time.time()
    for _ in range(3):
        next(reading)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in reading:
        pass
    return {
        "first_at": begun,
        "wall": (time.perf_counter() - wall) / clips,
        "cpu": (time.process_time() - cpu) / clips,
        "mib": peak_mib(),
    }


def peak_mib() -> float:
    """Return the peak of this process; what getrusage says includes the parent's before."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


def call(command: Sequence[str | Path]) -> dict[str, float]:
    """Run a slice in a process of its own; add the seconds until its first clip."""
    begun = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {"first": found["first_at"] - begun}


def peer_python() -> Path:
    """Return the interpreter of the peers' environment; make it if it is not there."""
    folder = cache_folder() / "peers" / "rlds_tf"
    python, ready = folder / "bin" / "python", folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install = [python, "-m", "pip", "install", "--quiet", *NEEDS]
        subprocess.run(install, check=True, stdout=sys.stderr)
        ready.touch()
    return python


def compare(root: Path, options: Options) -> dict[str, list[dict[str, float]]]:
    """Return what was measured in every round, of every variant."""
    clips = str(options.clips)
    ours = [sys.executable, Path(__file__), "--root", root, "--clips", clips, "--slice"]
    commands: dict[str, list[str | Path]] = {v: [*ours, v] for v in ("float32", "uint8")}
    if options.peers:
        folder = next(root.glob("*/dataset_info.json")).parent
        for name in ("skip_decoding", "skip_decoding_uint8", "raw", "default"):
            few = str(max(options.clips // 5, 4)) if name == "default" else clips
            commands[name] = [peer_python(), PEER, name, folder, few]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for number in range(options.repeats):
        names = list(commands)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(call(commands[name]))
    return found


def report(found: dict[str, list[dict[str, float]]], options: Options) -> None:
    """Print a line for each variant of ours and each peer."""

    def values(name: str, key: str) -> list[float]:
        return [slice_[key] for slice_ in found[name]]

    for variant in ("float32", "uint8"):
        line: dict[str, Any] = {
            "benchmark": "rlds",
            "output": variant,
            "unit": "CPU ms per clip of 16 frames",
            "ours": 1e3 * median(values(variant, "cpu")),
            "clips_per_second": 1 / median(values(variant, "wall")),
            "mib": median(values(variant, "mib")),
            "seconds_to_first": median(values(variant, "first")),
        }
        for peer in sorted(found.keys() - {"float32", "uint8"}):
            about = {
                "peer": f"tf.data {peer}",
                "peer_cpu": 1e3 * median(values(peer, "cpu")),
                "peer_mib": median(values(peer, "mib")),
                "peer_seconds_to_first": median(values(peer, "first")),
                "ratio": ratio(values(peer, "cpu"), values(variant, "cpu")),
                "ratio_wall": ratio(values(peer, "wall"), values(variant, "wall")),
            }
            emit(line | about | sizes(options))
        if len(found) == 2:
            emit(line | sizes(options))


def random_clips(root: Path, options: Options) -> None:
    """Compare clips at random places with decoding the same pictures from memory."""
    torch.set_num_threads(1)
    episodes = DroidConfig(root=root).build()
    rng = np.random.default_rng(0)
    wanted = [
        (int(e), int(rng.integers(options.steps - FRAMES + 1)) + np.arange(FRAMES))
        for e in rng.integers(0, options.episodes, 100)
    ]
    stored = [episodes.encoded(e, CAMERA, steps) or [] for e, steps in wanted]
    turn = {"ours": 0, "bare": 0}

    def following(name: str) -> int:
        turn[name] = (turn[name] + 1) % len(wanted)
        return turn[name]

    def ours() -> int:
        return len(episodes.pixels(wanted[following("ours")][0], CAMERA, wanted[turn["ours"]][1]))

    def bare() -> int:
        return len([simplejpeg.decode_jpeg(data, "RGB") for data in stored[following("bare")]])

    check(episodes, *wanted[0])
    variants: dict[str, Work] = {"ours": ours, "bare": bare}
    rates = measure(variants, options.repeats)
    emit(
        {
            "benchmark": "rlds_random_clips",
            "unit": "frames/s",
            "ours": median(rates["ours"]),
            "peer": "simplejpeg on a list in memory",
            "peer_frames_per_second": median(rates["bare"]),
            "ratio": ratio(rates["ours"], rates["bare"]),
            **sizes(options),
        }
    )


def check(episodes: Droid, episode: int, steps: np.ndarray) -> None:
    """Both decode the same pictures."""
    stored = episodes.encoded(episode, CAMERA, steps) or []
    bare = np.stack([simplejpeg.decode_jpeg(data, "RGB") for data in stored])
    if not np.array_equal(episodes.pixels(episode, CAMERA, steps).permute(0, 2, 3, 1), bare):
        raise AssertionError("the reader and simplejpeg do not decode the same pixels")


def sizes(options: Options) -> dict[str, Any]:
    return {"sizes": {"episodes": options.episodes, "steps": options.steps, "clips": options.clips}}


def main(options: Options) -> None:
    if options.slice and options.root:
        print(json.dumps(run_slice(options.slice, options.root, options.clips)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "droid"
        write_data(root, options)
        report(compare(root, options), options)
        random_clips(root, options)


if __name__ == "__main__":
    main(tyro.cli(Options))
