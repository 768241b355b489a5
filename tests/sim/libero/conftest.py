"""The assets of LIBERO, unpacked once on a machine; never part of the repository."""

import os
import tempfile
from pathlib import Path

import pytest

from saccade.sim.libero.assets import find_assets
from tests.conftest import SHARED

ARCHIVE = SHARED / "libero_assets.tar.xz"


def unpacked() -> Path:
    """Return the folder of LIBERO's assets (some are substitutes); skip where there are none."""
    if not ARCHIVE.exists():
        pytest.skip(f"{ARCHIVE} is not there: LIBERO's meshes and textures are not ours to give")
    with pytest.MonkeyPatch.context() as patch:
        kept = Path(tempfile.gettempdir()) / f"saccade-tests-{os.getuid()}"
        patch.setenv("SACCADE_CACHE", str(kept))
        return find_assets(ARCHIVE)


@pytest.fixture(scope="session")
def libero_assets() -> Path:
    """The folder of LIBERO's assets."""
    return unpacked()
