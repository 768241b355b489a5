"""Folders to hand on: complete or absent, listed with checksums, and packed to the same bytes."""

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saccade import __version__
from saccade.checkpoint import space_for, sync_folder
from saccade.errors import ConfigError

MANIFEST = "manifest.json"
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of zip files, whose bytes shall not depend on the clock
UNIX, PLAIN_FILE = 3, 0o100644 << 16  # who wrote a zip file, and its members' modes


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Give a folder to write to, which is put in its place when all of it is there.

    Raises:
        ConfigError: the place holds files.
    """
    place = out.resolve()
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise ConfigError(f"{out} holds files already; give a new folder")
    temporary = place.with_name(f".{place.name}.tmp-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if place.is_dir():
            place.rmdir()
        temporary.rename(place)
        sync_folder(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def zip_folder(folder: Path, file: Path) -> None:
    """Pack a folder, uncompressed: the same files, the same bytes; trained weights do not shrink.

    Raises:
        SpaceError: the disk is full.
    """
    temporary = file.with_name(f".{file.name}.tmp-{os.getpid()}")
    try:
        with space_for(file):
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as packed:
                for path in _files(folder):
                    name = f"{folder.resolve().name}/{path.relative_to(folder).as_posix()}"
                    info = zipfile.ZipInfo(name, FIRST_DAY)
                    info.create_system, info.external_attr = UNIX, PLAIN_FILE
                    packed.writestr(info, path.read_bytes())
            temporary.replace(file)
            sync_folder(file.resolve().parent)
    finally:
        temporary.unlink(missing_ok=True)


def manifest(folder: Path) -> dict[str, Any]:
    """List every file of a folder with its size and sha256."""
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return {"saccade": __version__, "files": files}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
