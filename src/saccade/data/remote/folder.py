"""Folders in buckets and on web servers: ``gs://``, ``s3://``, ``hf://``, ``https://``.

Only what is read is fetched, once, and kept in a cache of bounded size:

    SACCADE_CACHE             where (``remote/`` in it)
    SACCADE_REMOTE_CACHE_GB   how much, 50 by default
    SACCADE_REMOTE_TIMEOUT    seconds of silence after which a connection counts as broken, 20

Credentials and endpoints are those of the usual tools, see ``remote_stores``.
"""

import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from saccade.data.files.folder import Folder, natural, visible
from saccade.data.files.index import cache_folder
from saccade.data.remote.cache import twins
from saccade.data.remote.stores import STORES, Store, connect
from saccade.data.remote.transfer import Address, ChangedError, Item, ask, digest
from saccade.data.remote.twin import Twin
from saccade.errors import ConfigError, DataError, SpaceError

T = TypeVar("T")

SINGLE = 3  # files of a folder that are asked for one by one before it is listed
CONNECTED = 8  # stores per process
STORES_OPEN: OrderedDict[tuple[int, str], Store] = OrderedDict()


class RemoteFolder(Folder):
    """A folder that is read over the network. Names are relative and use ``/``.

    Listings are asked for once and kept; sizes, tags and checksums come with them.

    Raises:
        ConfigError: an unknown kind of address, or a package for it is missing.
        DataError: nothing is there, or we may not see it.
    """

    def __init__(self, root: str) -> None:
        address = urlsplit(root)
        if address.scheme not in STORES:
            raise ConfigError(f"{root}: expected one of {', '.join(f'{s}://' for s in STORES)}")
        if not address.netloc:
            raise ConfigError(f"{root} names no bucket or host; give one, like s3://bucket/folder")
        if address.password and address.scheme.startswith("http"):
            raise ConfigError(
                f"the address of {address.hostname} has a password, which messages would show; "
                "put it into ~/.netrc"
            )
        self.root = root.rstrip("/")
        self._forget_all()
        STORES_OPEN.pop((os.getpid(), self.root), None)  # credentials may have changed
        if self._store.recursive and not self.children():
            raise DataError(
                f"{self.root} is no folder with files that we can see; check the spelling and the "
                "credentials"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.root = state["root"]
        self._forget_all()

    def children(self, under: str = "") -> list[str]:
        """List the names directly under a folder (without its name), folders with a final ``/``."""
        under = under.strip("/")
        if under not in self._lists:
            found = self._store.children(under)
            self._lists[under] = sorted(filter(visible, found), key=natural)
            self._note({str(PurePosixPath(under, name)): item for name, item in found.items()})
        return self._lists[under]

    def names(self, under: str = "", suffix: str = "") -> list[str]:
        """List every file below a folder, in natural order; a bucket is asked once for all."""
        if not self._store.recursive:
            return super().names(under, suffix)
        under = under.strip("/")
        if under not in self._trees:
            found = self._store.all(under)
            below = len(under) + 1 if under else 0
            shown = [name for name in found if all(map(visible, name[below:].split("/")))]
            self._trees[under] = sorted(shown, key=natural)
            self._note(found)
        return [name for name in self._trees[under] if name.endswith(suffix)]

    def __contains__(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._look_up(name) is not None

    def size(self, name: str) -> int:
        """Return the size of a file in bytes.

        Raises:
            DataError: there is no such file.
        """
        return self._item(name).size

    def stamp(self, name: str) -> str:
        """Return size and tag of a file."""
        item = self._item(name)
        return f"{item.size}-{item.tag}"

    def read(self, name: str) -> bytes:
        """Return a small file whole."""
        return self._fetched(name, None, lambda twin: memoryview(twin.bytes).tobytes())

    def path(self, name: str) -> Path:
        """Fetch a file whole, compare it with the store's checksum, and return its local path.

        Raises:
            DataError: there is no such file, or it cannot be fetched whole.
            SpaceError: the disk is full.
        """
        return self._fetched(name, None, lambda twin: twin.path)

    def view(self, name: str, start: int, length: int) -> memoryview:
        """Return some bytes of a file, fetching those that are not here yet.

        Raises:
            DataError: there is no such file, it ends before, or it cannot be fetched.
            SpaceError: the disk is full.
        """
        end = start + length
        return self._fetched(name, (start, end), lambda twin: memoryview(twin.bytes)[start:end])

    def label(self, name: str) -> str:
        """Return the full address of a file, for messages."""
        return f"{self.root}/{name}".rstrip("/")

    def _identity(self, under: str) -> str:
        return under

    @property
    def _store(self) -> Store:
        """The connection of this process: those of another are not ours after a fork."""
        key = os.getpid(), self.root
        if key not in STORES_OPEN:
            STORES_OPEN[key] = connect(self.root)
            while len(STORES_OPEN) > CONNECTED:
                STORES_OPEN.popitem(last=False)
        return STORES_OPEN[key]

    def _forget_all(self) -> None:
        self._lists: dict[str, list[str]] = {}
        self._trees: dict[str, list[str]] = {}
        self._items: dict[str, Item | None] = {}
        self._single: Counter[str] = Counter()  # files that were asked for one by one, by folder

    def _note(self, found: dict[str, Item | None] | dict[str, Item]) -> None:
        self._items.update((name, item) for name, item in found.items() if item is not None)

    def _look_up(self, name: str) -> Item | None:
        if name not in self._items:
            parent, _, last = name.rpartition("/")
            self._single[parent] += 1
            if self._store.recursive and self._single[parent] > SINGLE:
                self.children(parent)  # one listing instead of ever more requests
            listed = parent in self._lists and visible(last)
            absent = listed and last not in self._lists[parent]
            if name not in self._items:
                self._items[name] = None if absent else self._store.item(name)
        return self._items[name]

    def _item(self, name: str) -> Item:
        item = self._look_up(name)
        if item is None:
            raise DataError(f"{self.label(name)} is missing; upload the data set again, or mend it")
        return item

    def _fetched(self, name: str, span: tuple[int, int] | None, use: Callable[[Twin], T]) -> T:
        """Complete a span of a file's twin (or all of it, verified) and return what is made of it.

        A file that changes meanwhile, or fails its checksum, is fetched once more from the start.
        """
        local, fault = twins(cache_folder() / "remote"), ""
        for _ in range(2):
            item = self._item(name)
            start, end = span or (0, item.size)
            if not 0 <= start <= end <= item.size:
                raise DataError(
                    f"{self.label(name)} ends at {item.size} bytes, needed are {start} to {end}; "
                    "it is cut off: upload it again"
                )
            locate = partial(self._store.address, name, item)
            try:
                with local.using(self.label(name), item) as twin:
                    twin.complete((start, end), locate, partial(local.make_room, twin))
                    if span or self._sound(twin, locate):
                        return use(twin)
                    local.drop(twin)
                    fault = f"its {item.checksum} is not that of the bytes received"
            except ChangedError as error:
                fault = str(error)
            except OSError as error:
                if isinstance(error, SpaceError):
                    raise
                raise DataError(
                    f"{self.label(name)} cannot be kept in {local.folder} ({error}); set "
                    "SACCADE_CACHE to a folder on a local disk"
                ) from error
            del self._items[name]  # ask the store anew
        raise DataError(
            f"{self.label(name)} cannot be fetched: {fault}, in each of 2 attempts from the start; "
            "wait until nobody writes to it, or upload it again"
        )

    def _sound(self, twin: Twin, locate: Callable[[], Address]) -> bool:
        """Whether the whole of a file has the store's checksum, where the store gives one."""
        if twin.verified():
            return True
        if twin.item.checksum and digest(twin.item.checksum[0], twin.bytes) != twin.item.checksum:
            address = locate()
            first = replace(address, headers={**address.headers, "Range": "bytes=0-0"})
            headers = ask(twin.label, first, body=False).headers
            names = (f"x-amz-server-side-encryption{end}" for end in ("", "-customer-algorithm"))
            if all(headers.get(name, "AES256") == "AES256" for name in names):
                return False
            # The ETag of an object that is encrypted with a key of its own is no MD5.
        twin.mark_verified()
        return True
