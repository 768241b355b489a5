"""What readers learn by opening every file of a data set, learned once.

A scan of 100,000 files takes minutes; its result is a table in the cache folder, one row per
file, valid as long as the file keeps its size and time (or its tag in a bucket). A folder to
which files were added is scanned for those alone.
"""

import hashlib
import json
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saccade.checkpoint import write_atomic
from saccade.data.files.faults import OnError, Skipped
from saccade.data.files.folder import Folder
from saccade.errors import DataError
from saccade.processes import die_with_parent, forkserver
from saccade.progress import progress

Scan = Callable[[Folder, str], Any]  # what to keep of a file, as JSON values
PARALLEL = 256  # files from which several processes pay


def cache_folder(given: str = "") -> Path:
    """Return where indices, decoded frames, features and downloads are kept."""
    return Path(given or os.environ.get("SACCADE_CACHE", "~/.cache/saccade")).expanduser()


def index(
    folder: Folder,
    names: Sequence[str],
    scan: Scan,
    version: int,
    on_error: OnError = "raise",
    most_skipped: float = 0.01,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what ``scan`` says of each file, and why those that it refuses were left out.

    ``scan`` is a function at the top of a module (it may run in other processes); ``version``
    changes when it does.

    Raises:
        DataError: a file is broken, or with ``on_error="skip"`` more than ``most_skipped`` of all.
    """
    store = _store(folder, scan, version)
    skipped = Skipped(on_error, most_skipped)
    stamps: dict[str, str] = {}
    for name in names:
        with skipped.guard(name):  # a link may lead nowhere
            stamps[name] = folder.stamp(name)
    table = _load(store)
    known = {n: table[n][1] for n, stamp in stamps.items() if n in table and table[n][0] == stamp}
    missing = [name for name in stamps if name not in known]
    if missing:
        try:
            with progress(f"indexing {folder.root}", len(names), "files") as told:
                told(len(known))
                for name, value in _scanned(folder, missing, scan):
                    if isinstance(value, DataError):
                        skipped.add(name, value)
                    else:
                        known[name] = value
                    told(len(known))
        finally:  # what was learned before an error is kept
            _save(store, table | {name: (stamps[name], value) for name, value in known.items()})
    skipped.settle(len(names), "files")
    return {name: known[name] for name in names if name in known}, skipped.found


def _scanned(folder: Folder, names: Sequence[str], scan: Scan) -> Iterator[tuple[str, Any]]:
    work = partial(_scan_one, folder, scan)
    if len(names) < PARALLEL or multiprocessing.parent_process() is not None:
        yield from map(work, names)
        return
    context = forkserver()
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=die_with_parent) as pool:
        try:
            yield from pool.map(work, names, chunksize=16)
        except BrokenProcessPool as error:
            raise DataError(
                f"a process that indexes {folder.root} was killed, probably for want of memory; "
                "open the data set again: what was indexed is kept"
            ) from error


def _scan_one(folder: Folder, scan: Scan, name: str) -> tuple[str, Any]:
    try:
        return name, scan(folder, name)
    except DataError as error:
        return name, error


def _store(folder: Folder, scan: Scan, version: int) -> Path:
    root = folder.root if "://" in folder.root else str(Path(folder.root).resolve())
    key = json.dumps([root, scan.__module__, scan.__qualname__, version])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return cache_folder() / "index" / f"{digest}.parquet"


def _load(store: Path) -> dict[str, tuple[str, Any]]:
    """Load a table; one that is damaged is built again."""
    try:
        with pq.ParquetFile(store, page_checksum_verification=True) as file:
            table = file.read()
        columns = (table[name].to_pylist() for name in ("name", "stamp", "value"))
        return {
            name: (stamp, json.loads(value)) for name, stamp, value in zip(*columns, strict=True)
        }
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}


def _save(store: Path, table: Mapping[str, tuple[str, Any]]) -> None:
    """Keep a table; where that cannot be, say so once and go on without."""
    columns = {
        "name": list(table),
        "stamp": [stamp for stamp, _ in table.values()],
        "value": [json.dumps(value) for _, value in table.values()],
    }
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd", write_page_checksum=True)
    try:
        write_atomic(store, sink.getvalue().to_pybytes())
    except OSError as error:
        warnings.warn(f"{store} cannot be written ({error}); set SACCADE_CACHE", stacklevel=3)
