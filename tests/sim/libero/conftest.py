"""The assets of LIBERO, unpacked once on a machine and never part of the repository; a scene."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from saccade.sim.libero.assets import find_assets
from saccade.sim.libero.scene import LiberoScene
from saccade.sim.libero.suite import LiberoSuite
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


@pytest.fixture(scope="session")
def suite(libero_assets: Path) -> LiberoSuite:
    """Ten tasks with objects on a floor."""
    return LiberoSuite("libero_object", libero_assets)


@pytest.fixture(scope="session")
def soup(suite: LiberoSuite) -> Iterator[LiberoScene]:
    """Its first task, loaded once, as that takes seconds. Contacts from the first moment."""
    with suite.open(suite.tasks[0]) as scene:
        assert isinstance(scene, LiberoScene)
        yield scene
