"""Frames per second of our Meta-World renderer against Meta-World's own ``env.render()``.

Both draw the same task at the same size in the same process, each as its makers set it up.
``episodes`` is what ``saccade collect`` reaches with one worker: physics, drawing, video encoding
and storing.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro
from timing import Work, emit, measure, ratio

from saccade.sim.collect import CollectConfig, Progress, collect
from saccade.sim.metaworld import MetaWorld

TASK, CAMERA = "drawer-open-v3", "corner2"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time drawing, and collection as a whole.

    Args:
        size: height and width of a picture, in pixels.
        episodes: demonstrations to collect.
        repeats: rounds; each renderer gets one slice of each.
    """

    size: int = 128
    episodes: int = 2
    repeats: int = 7


def peer(size: int) -> Work:
    """Return Meta-World's own way to draw a frame."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # after ours, which chooses the OpenGL

    env = ALL_V3_ENVIRONMENTS[TASK](
        render_mode="rgb_array", camera_name=CAMERA, width=size, height=size
    )

    def draw() -> int:
        viewer = env.mujoco_renderer.viewer
        if viewer is not None:
            viewer.make_context_current()  # ours was; alone in a process it would stay current
        env.render()
        return 1

    return draw


def episodes(options: Options) -> float:
    """Return the frames per second of a whole collection."""
    seen: list[Progress] = []
    with tempfile.TemporaryDirectory() as folder:
        config = CollectConfig(
            out=Path(folder), tasks=(TASK,), episodes=options.episodes, size=options.size
        )
        collect(config, seen.append)
    return seen[-1].frames_per_second


def main(options: Options) -> None:
    with MetaWorld(TASK, options.size) as simulator:

        def ours() -> int:
            simulator.render(CAMERA)
            return 1

        rates = measure({"ours": ours, "peer": peer(options.size)}, options.repeats)
    emit(
        {
            "benchmark": "collection",
            "unit": "frames/s",
            "ours": median(rates["ours"]),
            "peer": "env.render()",
            "peer_frames_per_second": median(rates["peer"]),
            "ratio": ratio(rates["ours"], rates["peer"]),
            "episodes": episodes(options),
            "sizes": {"image_size": options.size, "episodes": options.episodes},
        }
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
