"""The checksum of every file of a data set, kept in a file, and what has changed since.

Not every flipped bit can be seen by reading: contiguous HDF5 has no checksums, and a damaged
H.264 or HEVC stream decodes to other pixels without an error. The file has a line for each file
of the data set, as ``sha256sum`` writes it with the size between:

    <SHA-256 in hex>  <bytes>  <name, with / and relative to the data set>
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from saccade.checkpoint import write_atomic
from saccade.data.files.folder import Folder, natural, open_folder
from saccade.data.passes.shards import Shard, parallel
from saccade.data.passes.verify import Fault, make_fault
from saccade.errors import DataError
from saccade.progress import progress

CHUNK = 2**22  # bytes read at once
LINE = re.compile(r"([0-9a-f]{64})  (\d+)  (.+)")
ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}  # of names: a line is a file


class Files(NamedTuple):
    """What the files of a data set are, or those that fell to a shard."""

    listing: str  # a digest of the names of all: shards of different listings do not add up
    found: dict[str, tuple[int, str]]  # size and SHA-256 by name
    unreadable: dict[str, str]  # why, by name


def checksums(
    root: str, apart: Sequence[Path] = (), jobs: int = 1, shard: Shard | None = None
) -> Files:
    """Read every file of a data set, or those that fall to a shard; of a bucket, fetch them all.

    Hidden files and unfinished downloads do not count, nor do the files of ours in ``apart``.

    Raises:
        DataError: there is no such folder.
    """
    folder, names = _files(root, apart)
    listing = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    mine = (shard or Shard()).of(names)
    found, unreadable, done = {}, {}, 0
    with progress(f"checksums of {root}", len(mine), "files") as told:
        told(0)
        work = partial(_checksum, folder, mine)
        for i, result in parallel(work, range(len(mine)), jobs, mine.__getitem__):
            if isinstance(result, DataError):
                unreadable[mine[i]] = str(result)
            else:
                found[mine[i]] = result
            done += 1
            told(done)
    return Files(listing, found, unreadable)


def merged(parts: Sequence[Files]) -> Files:
    """Put the files of all shards together.

    Raises:
        DataError: files were added or removed between the shards.
    """
    if len({part.listing for part in parts}) > 1:
        raise DataError(
            "the shards saw different files, since some were added or removed in between; run all "
            "shards again"
        )
    found = {name: value for part in parts for name, value in part.found.items()}
    unreadable = {name: reason for part in parts for name, reason in part.unreadable.items()}
    return Files(parts[0].listing, found, unreadable)


def save_checksums(path: Path, files: Files) -> None:
    """Write the file, whole or not at all."""
    lines = (
        f"{digest}  {size}  {name.translate(str.maketrans(ESCAPES))}\n"
        for name, (size, digest) in sorted(files.found.items(), key=lambda pair: natural(pair[0]))
    )
    write_atomic(path, "".join(lines).encode("utf-8", "surrogateescape"))


def load_checksums(path: Path) -> dict[str, tuple[int, str]]:
    """Load size and SHA-256 of each file.

    Raises:
        DataError: it cannot be read, or a line of it is something else.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give another file") from error
    back, found = {escaped: plain for plain, escaped in ESCAPES.items()}, {}
    for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
        parts = LINE.fullmatch(line)
        name = re.sub(r"\\[\\nr]", lambda match: back[match[0]], parts[3]) if parts else ""
        if parts is None or name in found:
            raise DataError(
                f"{path}, line {number} is {line!r:.80}, expected the SHA-256, the size and the "
                "name of a file, each file once; restore it, or delete it to have it written anew"
            )
        found[name] = int(parts[2]), parts[1]
    return found


def compare(path: Path, files: Files) -> tuple[dict[str, Any], list[Fault]]:
    """Compare files with what was written down of them; where nothing was, write it down.

    Returns JSON values: what was done, and a fault for each file that is not the same. Nothing is
    written if a file cannot be read.

    Raises:
        DataError: the file of checksums is damaged.
    """
    known = load_checksums(path) if path.exists() else None
    told = dict(files.unreadable)
    if known is None and not told:
        save_checksums(path, files)
    elif known is not None:
        told |= _differences(path, known, files)
    faults = [make_fault(-1, told[name]) for name in sorted(told, key=natural)]
    count, total = len(files.found), sum(size for size, _ in files.found.values())
    written = known is None and not faults
    return {"file": str(path), "files": count, "bytes": total, "written": written}, faults


def from_json(value: Mapping[str, Any]) -> Files:
    """Invert ``Files._asdict`` after a trip through JSON."""
    found = {name: (size, digest) for name, (size, digest) in value["found"].items()}
    return Files(value["listing"], found, value["unreadable"])


def _files(root: str, apart: Sequence[Path]) -> tuple[Folder, list[str]]:
    """Return a folder and the names of its files; ``root`` may be one of them (LIBERO)."""
    text = root.rstrip("/")
    if text.endswith((".hdf5", ".h5")):
        above, _, name = text.rpartition("/")
        return open_folder(above or ("/" if text.startswith("/") else ".")), [name]
    folder = open_folder(root)
    ours = set()
    if "://" not in root:
        top = Path(root).resolve()
        places = (path.resolve() for path in apart)
        ours = {str(place.relative_to(top)) for place in places if place.is_relative_to(top)}
    names = folder.names()
    kept = (n for n in names if n not in ours and n.partition(".parts/")[0] not in ours)
    return folder, list(kept)


def _differences(path: Path, known: Mapping[str, tuple[int, str]], files: Files) -> dict[str, str]:
    """Say what is not as it was written down, by name."""
    told = {}
    for name in known.keys() | files.found.keys():
        mend = f"restore it, or delete {path} if that is meant"
        if name in files.unreadable:
            continue
        if name not in files.found:
            told[name] = f"{name} is missing, though {path} names it; {mend}"
        elif name not in known:
            told[name] = f"{name} is new, {path} does not name it; remove it, or delete {path}"
        elif files.found[name] != known[name]:
            told[name] = f"{name} changed: {_differs(known[name], files.found[name])}; {mend}"
    return told


def _checksum(folder: Folder, names: Sequence[str], number: int) -> tuple[int, str]:
    """Read one file."""
    name, digest, size = names[number], hashlib.sha256(), 0
    try:
        with folder.path(name).open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                size += len(data)
    except OSError as error:
        raise DataError(
            f"{folder.label(name)} cannot be read ({error.strerror}); download it again"
        ) from error
    return size, digest.hexdigest()


def _differs(known: tuple[int, str], found: tuple[int, str]) -> str:
    if known[0] != found[0]:
        return f"it has {found[0]:,} bytes, not {known[0]:,}"
    return f"its SHA-256 is {found[1][:12]}..., not {known[1][:12]}..."
