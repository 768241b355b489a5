"""The OpenGL that simulators draw with; it must be chosen before anything imports mujoco."""

import os
from pathlib import Path

LIBRARIES = "apt-get install -y libosmesa6 libegl1 libgl1 libgl1-mesa-dri"


def choose() -> str:
    """Set ``MUJOCO_GL`` unless the user did: egl where there is a GPU, else osmesa."""
    gpu = Path("/dev/nvidiactl").exists() or Path("/dev/dri").exists()
    return os.environ.setdefault("MUJOCO_GL", "egl" if gpu else "osmesa")
