"""Random reads of LIBERO's HDF5 files against h5py opened for every item, and memory over time.

Both return both cameras, the hand, the gripper and the action of random steps, or of chunks of
neighbouring steps, from the page cache; ours also turns the pictures upright. ``--soak 100000``
reads so many samples instead, of generated files or of any data set (``--data``), and reports the
memory of the process: it must not grow with samples, nor with ten times the episodes.
"""

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch
import tyro
from timing import Work, emit, measure, ratio

from saccade.data.episodes import Episodes
from saccade.data.formats import open_episodes
from saccade.data.libero.reader import LiberoConfig

CAMERAS, TABLES = ("agentview_rgb", "eye_in_hand_rgb"), ("ee_states", "gripper_states")
WIDTHS = {"ee_states": 6, "gripper_states": 2, "joint_states": 7, "ee_pos": 3, "ee_ori": 3}
WARM = 2000  # samples after which memory is first looked at


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time random reads, or watch memory.

    Args:
        data: a data set of any format to soak; empty: generated files.
        demos: of each of two generated files.
        length: steps of a demonstration.
        size: height and width of a picture, in pixels.
        chunk: steps of a chunk.
        repeats: rounds; each reader gets one slice of each.
        soak: samples to read while memory is watched; 0 compares speed.
    """

    data: str = ""
    demos: int = 20
    length: int = 100
    size: int = 128
    chunk: int = 16
    repeats: int = 7
    soak: int = 0


def write_files(root: Path, demos: int, length: int, size: int) -> list[Path]:
    """Write two files as LIBERO's: contiguous, uncompressed, with all that demonstrations have."""
    paths, rng = [root / f"task_{i}_demo.hdf5" for i in range(2)], np.random.default_rng(0)
    for path in paths:
        with h5py.File(path, "w") as file:
            for demo in range(demos):
                group = file.create_group(f"data/demo_{demo}")
                for name in CAMERAS:
                    shape = (length, size, size, 3)
                    group[f"obs/{name}"] = rng.integers(0, 256, shape, np.uint8)
                for name, width in WIDTHS.items():
                    group[f"obs/{name}"] = rng.normal(size=(length, width))
                group["actions"] = rng.uniform(-1, 1, (length, 7))
                group["robot_states"], group["states"] = np.zeros((2, length, 92))
                group["dones"] = group["rewards"] = np.zeros(length, np.uint8)
                group.attrs["num_samples"] = length
                group.attrs["model_file"] = "x" * 60_000
            file["data"].attrs["tag"] = "libero-v1"
    return paths


def read_per_item(path: Path, demo: int, start: int, steps: int) -> list[np.ndarray]:
    """Open a file for one item."""
    with h5py.File(path) as file:
        group: Any = file[f"data/demo_{demo}"]
        rows = slice(start, start + steps)
        seen = [group["obs"][name][rows] for name in (*CAMERAS, *TABLES)]
        return [*seen, group["actions"][start + 1 : start + 1 + steps]]


def compare(paths: list[Path], steps: int, options: Options) -> dict[str, Any]:
    """Time reads of so many steps."""
    data, rng = LiberoConfig(root=paths[0].parent).build(), np.random.default_rng(steps)

    places = zip(
        rng.integers(len(data.lengths), size=5000).tolist(),
        rng.integers(data.lengths[0] - steps, size=5000).tolist(),
        strict=True,
    )
    draw = itertools.cycle(places)

    def ours(episode: int, start: int) -> Any:
        return data.read(episode, np.arange(start, start + steps))

    def theirs(episode: int, start: int) -> list[np.ndarray]:
        which, demo = divmod(episode, options.demos)
        return read_per_item(paths[which], demo, start, steps)

    one, other = ours(1, 3), theirs(1, 3)
    for view in range(2):
        upright = torch.from_numpy(other[view][:, ::-1].copy()).permute(0, 3, 1, 2)
        assert torch.equal(one["video"][:, view], upright), "they do not read the same"
    variants: dict[str, Work] = {
        "ours": lambda: len([ours(*next(draw))]),
        "peer": lambda: len([theirs(*next(draw))]),
    }
    rates = measure(variants, options.repeats)
    return {
        "ours": median(rates["ours"]),
        "peer_samples_per_second": median(rates["peer"]),
        "ratio": ratio(rates["ours"], rates["peer"]),
    }


def memory() -> dict[str, float]:
    """Return what this process holds, in MiB: all, and without pages of files."""
    status = Path("/proc/self/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in status)
    return {
        "rss": int(found["VmRSS"].split()[0]) / 1024,
        "anonymous": int(found["RssAnon"].split()[0]) / 1024,
    }


def soak(data: Episodes, samples: int) -> dict[str, Any]:
    """Read random frames of a random camera; report memory early and late."""
    rng, usable = np.random.default_rng(0), np.flatnonzero(np.array(data.lengths) > 0)
    early = memory()
    for number in range(samples):
        if number == min(WARM, samples // 2):
            early = memory()
        episode = int(rng.choice(usable))
        frames = rng.integers(data.lengths[episode], size=2)
        cameras = data.cameras_of(episode)
        data.read(episode, frames, [cameras[rng.integers(len(cameras))]] if cameras else ())
    late = memory()
    grown = late["anonymous"] - early["anonymous"]
    return {"episodes": len(data.lengths), "early": early, "late": late, "grown_mib": grown}


def main(options: Options) -> None:
    torch.set_num_threads(1)
    sizes = {name: getattr(options, name) for name in ("demos", "length", "size", "chunk", "soak")}
    result: dict[str, Any] = {"benchmark": "hdf5", "peer": "h5py, opened per item"}
    with tempfile.TemporaryDirectory() as folder:
        if options.soak and options.data:
            result |= {"soak": {options.data: soak(open_episodes(options.data), options.soak)}}
        elif options.soak:
            result["soak"] = {}
            for times in (1, 10):
                root = Path(folder, str(times))
                root.mkdir()
                write_files(root, times * options.demos, options.length, options.size)
                data = LiberoConfig(root=root).build()
                result["soak"][f"{times}x"] = soak(data, options.soak)
        else:
            paths = write_files(Path(folder), options.demos, options.length, options.size)
            result |= {"unit": "samples/s", **compare(paths, 1, options)}
            result |= {"chunk": compare(paths, options.chunk, options)}
    emit(result | {"sizes": sizes})


if __name__ == "__main__":
    main(tyro.cli(Options))
