"""Random reads of LIBERO's HDF5 files against h5py opened for every item, and memory over time.

All from the page cache, both cameras, the hand, the gripper and the actions, in three cases:

* ``step``: one step.
* ``policy``: one step and the actions of a chunk, which is what a policy is trained on.
* ``chunk``: neighbouring steps. The peer opens the file for each step, as a data set whose item
  is a step does, or once and reads one slice of each array (``slice``).

Ours also turns the pictures upright. ``ceiling`` is what the ratio would be if reading took no
more than one copy of the pixels, in the order in which they are stored, from memory to memory.

``--soak 100000`` reads so many samples instead, of generated files or of any data set (``--data``),
and reports the memory of the process: it must not grow with samples, nor with ten times the
episodes.
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


def read_per_item(path: Path, demo: int, start: int, steps: int, ahead: int) -> list[np.ndarray]:
    """Open a file for one item: what is seen in some steps, and the actions from the first on."""
    with h5py.File(path) as file:
        group: Any = file[f"data/demo_{demo}"]
        rows = slice(start, start + steps)
        seen = [group["obs"][name][rows] for name in (*CAMERAS, *TABLES)]
        return [*seen, group["actions"][start + 1 : start + 1 + ahead]]


def compare(paths: list[Path], steps: int, ahead: int, options: Options) -> dict[str, Any]:
    """Time reads of so many steps with the actions of so many."""
    data, rng = LiberoConfig(root=paths[0].parent).build(), np.random.default_rng(steps)
    last = data.lengths[0] - max(steps, ahead)
    places = zip(
        rng.integers(len(data.lengths), size=5000).tolist(),
        rng.integers(last, size=5000).tolist(),
        strict=True,
    )
    draw = itertools.cycle(places)

    def ours(episode: int, start: int) -> Any:
        seen = data.read(episode, np.arange(start, start + steps))
        if ahead > steps:
            _, action = data.numbers(episode, np.arange(start, start + ahead))
            seen["action"] = torch.from_numpy(action)
        return seen

    def theirs(episode: int, start: int, steps: int = steps, ahead: int = ahead) -> Any:
        which, demo = divmod(episode, options.demos)
        return read_per_item(paths[which], demo, start, steps, ahead)

    def each(episode: int, start: int) -> Any:
        items = [theirs(episode, start + i, 1, 1) for i in range(steps)]
        return [np.concatenate(arrays) for arrays in zip(*items, strict=True)]

    shape = (options.demos * options.length, options.size, options.size, 3)
    stored = np.full(shape, 7, np.uint8)  # zeros would be one page of memory

    def copy(episode: int, start: int) -> Any:
        first = episode % options.demos * options.length + start
        return [stored[first : first + steps].copy() for _ in CAMERAS]

    require_equal(ours(1, 3), theirs(1, 3))
    readers = {"ours": ours, "slice": theirs, "copy": copy}
    if steps > 1:
        readers["peer"] = each
        require_equal(ours(1, 3), each(1, 3))
    variants: dict[str, Work] = {
        name: lambda read=read: len([read(*next(draw))]) for name, read in readers.items()
    }
    rates = measure(variants, options.repeats)
    found = {name: median(values) for name, values in rates.items()}
    peer = rates.get("peer", rates["slice"])
    result: dict[str, Any] = {"ours": found["ours"], "peer_samples_per_second": median(peer)}
    result |= {"ratio": ratio(rates["ours"], peer), "ceiling": ratio(rates["copy"], peer)}
    if "peer" in rates:
        result["slice"] = {
            "peer_samples_per_second": found["slice"],
            "ratio": ratio(rates["ours"], rates["slice"]),
            "ceiling": ratio(rates["copy"], rates["slice"]),
        }
    return result


def require_equal(ours: Any, theirs: list[np.ndarray]) -> None:
    """See that both read the same pixels and actions."""
    for view in range(2):
        upright = torch.from_numpy(theirs[view][:, ::-1].copy()).permute(0, 3, 1, 2)
        assert torch.equal(ours["video"][:, view], upright), "they do not read the same pixels"
    assert np.allclose(ours["action"][:, :6], theirs[-1][:, :6]), "nor the same actions"


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
            result |= {"unit": "samples/s"}
            for name, steps, ahead in (
                ("step", 1, 1),
                ("policy", 1, options.chunk),
                ("chunk", options.chunk, options.chunk),
            ):
                result[name] = compare(paths, steps, ahead, options)
    emit(result | {"sizes": sizes})


if __name__ == "__main__":
    main(tyro.cli(Options))
