"""The meshes and textures of LIBERO, which its package leaves out.

A folder may hold substitutes (it then has a file ``STANDINS.txt`` that lists them): physics is
LIBERO's, pictures are not.
"""

import fcntl
import hashlib
import os
from pathlib import Path

from saccade.data.files.archive import extract
from saccade.data.files.index import cache_folder
from saccade.errors import ConfigError, DataError
from saccade.sim.libero import package

VARIABLE = "SACCADE_LIBERO_ASSETS"
PARTS = ("articulated_objects", "scenes", "stable_hope_objects", "textures")
STANDINS = "STANDINS.txt"


def find_assets(given: Path | None = None) -> Path:
    """Return the folder of assets: one of this machine, else what the hub has.

    Raises:
        ConfigError: LIBERO is not installed.
        DataError: what was given holds no assets, or the hub cannot be reached.
    """
    return local_assets(given) or _download()


def local_assets(given: Path | None = None) -> Path | None:
    """Return the folder of assets: the one given, else of the environment, else of the package.

    An archive is unpacked into the cache. Fetches nothing: None where there is none.

    Raises:
        ConfigError: LIBERO is not installed.
        DataError: what was given holds no assets.
    """
    own = given or os.environ.get(VARIABLE)
    if own:
        path = Path(own).expanduser().resolve()
        return _folder(path if path.is_dir() else _unpack(path), given=path)
    for folder in (package.root() / "assets", Path("~/.cache/libero/assets").expanduser()):
        if _whole(folder):
            return folder
    return None


def standins(folder: Path) -> int:
    """Return how many files of a folder of assets are substitutes."""
    path = folder / STANDINS
    if not path.exists():
        return 0
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum((folder / line.strip()).is_file() for line in lines if line.strip())


def _whole(folder: Path) -> bool:
    return all((folder / part).is_dir() for part in PARTS)


def _folder(folder: Path, given: Path) -> Path:
    """Return the folder, or the one in it, that holds assets."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    for place in (folder, *inside):
        if _whole(place):
            return place
    raise DataError(
        f"{given} holds no LIBERO assets, expected the folders {', '.join(PARTS)} in it or one "
        "folder below; give the folder or the archive that has them"
    )


def _unpack(archive: Path) -> Path:
    """Unpack an archive into the cache, once; processes that start together wait for one."""
    if not archive.is_file():
        raise DataError(
            f"{archive} does not exist; give the folder of LIBERO's assets or their archive"
        )
    about = archive.stat()
    name = hashlib.sha256(f"{archive}, {about.st_size}, {about.st_mtime_ns}".encode()).hexdigest()
    folder = cache_folder() / "libero" / f"assets-{name[:16]}"
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock").open("a")
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror}); set SACCADE_CACHE to a folder that "
            "you may write"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            extract(archive, folder)
    return folder


def _download() -> Path:
    try:
        return package.download_assets()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise DataError(
            f"LIBERO's assets are neither in {package.root() / 'assets'} nor on the hub "
            f"({message:.120}); set {VARIABLE} to their folder or archive"
        ) from error
