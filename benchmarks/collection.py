"""Frames per second of our Meta-World renderer against Meta-World's own ``env.render()``.

Prints one JSON line: ``ours`` and ``peer`` are pictures of 128 x 128 per second from the same
states in the same process, ``episodes`` is what ``saccade collect`` reaches with one worker,
physics, video encoding and storing included.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from saccade.sim.collect import CollectConfig, Progress, collect
from saccade.sim.metaworld import MetaWorld

TASK, CAMERA, SIZE = "drawer-open-v3", "corner2", 128


def rate(draw: Callable[[], object], frames: int) -> float:
    draw()  # opens the renderer
    start = time.perf_counter()
    for _ in range(frames):
        draw()
    return frames / (time.perf_counter() - start)


def ours() -> float:
    with MetaWorld(TASK, SIZE) as simulator:
        return rate(lambda: simulator.render(CAMERA), 60)


def peer() -> float:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # after ours, which chooses the OpenGL

    env = ALL_V3_ENVIRONMENTS[TASK](
        render_mode="rgb_array", camera_name=CAMERA, width=SIZE, height=SIZE
    )
    try:
        return rate(env.render, 10)
    finally:
        env.close()


def episodes() -> float:
    seen: list[Progress] = []
    with tempfile.TemporaryDirectory() as folder:
        config = CollectConfig(out=Path(folder), tasks=(TASK,), episodes=2, size=SIZE)
        collect(config, seen.append)
    return seen[-1].frames_per_second


def main() -> None:
    mine, theirs = ours(), peer()
    result = {"benchmark": "collection", "unit": "frames/s", "size": SIZE}
    result |= {"ours": mine, "peer": theirs, "ratio": mine / theirs, "episodes": episodes()}
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
