"""What lies in a bucket or on a server, and how to ask for it.

Names, sizes, tags and credentials of ``gs://``, ``s3://`` and ``hf://`` come from fsspec (gcsfs,
s3fs, huggingface_hub), with their usual settings (``AWS_*``, ``GOOGLE_APPLICATION_CREDENTIALS``,
``STORAGE_EMULATOR_HOST``, ``HF_TOKEN``, ``HF_ENDPOINT``, ``FSSPEC_S3_*`` ...). Where there are no
credentials, access is anonymous. Web servers are asked directly.
"""

import base64
import hashlib
import mmap
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from saccade.data.remote.transfer import (
    HEALS,
    Address,
    Attempts,
    Item,
    TransientError,
    ask,
    digest,
    refusal,
    refuse_page,
    timeout,
    unknown_host,
)
from saccade.errors import ConfigError, DataError

try:
    import fsspec
except ImportError as error:
    raise ConfigError(
        f"data in a bucket need more packages ({error}); pip install 'saccade[remote]'"
    ) from error

T = TypeVar("T")

PART = 64 * 2**20  # bytes of a part of a large file on its way to S3
GOOGLE_PART = 8 * 2**20  # and to Google's storage, which has a timeout for each part as a whole
MISTAKES = (TypeError, AttributeError, LookupError, AssertionError)  # of a program, not of a net


class Store(ABC):
    """The files below one address. Names are relative to it; not shared between processes."""

    recursive = True  # whether one listing can go through all folders

    @abstractmethod
    def children(self, under: str) -> dict[str, Item | None]:
        """List one folder: names in it with their items, and folders (``name/``, None)."""

    @abstractmethod
    def all(self, under: str) -> dict[str, Item]:
        """List every file below a folder, by its name from the root."""

    @abstractmethod
    def item(self, name: str) -> Item | None:
        """Ask for one file; None if there is none."""

    @abstractmethod
    def address(self, name: str, item: Item) -> Address:
        """Return how to ask for a file's bytes now (signatures and tokens expire)."""


class Bucket(Store):
    """A store of fsspec; ``kind`` is what differs between them."""

    def __init__(self, protocol: str, root: str) -> None:
        self.label, self.root = f"{protocol}://{root}", root
        options = {"use_listings_cache": False, "skip_instance_cache": True}
        try:
            self.fs: Any = self.kind(protocol)(**options, **self.options())
        except ImportError as error:
            raise ConfigError(
                f"{protocol}:// needs more packages ({error}); pip install 'saccade[remote]'"
            ) from error

    def kind(self, protocol: str) -> Callable[..., Any]:
        """Return the class of the file system."""
        return fsspec.get_filesystem_class(protocol)

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return what the file system is built with."""

    @abstractmethod
    def described(self, info: dict[str, Any]) -> Item:
        """Read the description of a file."""

    def children(self, under: str) -> dict[str, Item | None]:
        """List one folder."""
        return dict(self._sorted(lambda: self.fs.ls(self._full(under), detail=True), under))

    def all(self, under: str) -> dict[str, Item]:
        """List every file below a folder; the store sends pages of 1,000."""
        listed = self._sorted(lambda: self.fs.find(self._full(under), detail=True).values(), "")
        return {name: item for name, item in listed if item is not None}

    def item(self, name: str) -> Item | None:
        """Ask for one file."""
        info = self._asked(lambda: self.fs.info(self._full(name)), name)
        return None if info is None or info["type"] != "file" else self.described(info)

    def put(self, files: Mapping[str, Path]) -> None:
        """Write files; each is there when it is complete, and not before.

        Raises:
            DataError: they cannot be written.
        """
        for name, path in files.items():
            self._asked(lambda p=path, n=name: self._put(p, self._full(n)), name, "written")

    def _put(self, path: Path, full: str) -> None:
        self.fs.put_file(str(path), full)

    def remove(self, names: Sequence[str]) -> None:
        """Delete files; those that are not there are no error."""
        for name in names:
            self._asked(lambda n=name: self.fs.rm_file(self._full(n)), name, "deleted")

    def same(self, path: Path, item: Item) -> bool:
        """Say whether a file of the store has the content of one here."""
        if item.size != path.stat().st_size or item.checksum is None:
            return False
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if item.size else b""
        return item.checksum == digest(item.checksum[0], data)

    def _sorted(
        self, listing: Callable[[], Iterable[dict[str, Any]]], under: str
    ) -> list[tuple[str, Item | None]]:
        start = len(self._full(under)) + 1
        found = []
        for info in self._asked(listing, under) or ():
            name = self.fs._strip_protocol(info["name"])[start:]
            if info["type"] == "file" and not info["name"].endswith("/") and name:
                found.append((name, self.described(info)))
            elif info["type"] == "directory" and name:
                found.append((f"{name.rstrip('/')}/", None))
        return found

    def _full(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")

    def _asked(self, question: Callable[[], T], name: str, what: str = "fetched") -> T | None:
        """Ask until there is an answer; None if there is no such thing."""
        label = f"{self.label}/{name}".rstrip("/")
        attempts = Attempts(label, what)
        while True:
            try:
                return question()
            except FileNotFoundError as error:
                if what == "written":
                    raise refusal(label, 404) from error
                return None
            except MISTAKES:
                raise
            except Exception as error:  # noqa: BLE001 - each of the packages has errors of its own
                attempts.again(_judged(error, label), "nothing arrived")


def _judged(error: Exception, label: str) -> TransientError:
    """Return the error if it may heal, else raise ours."""
    answer = getattr(error, "response", None)
    code = getattr(answer, "status_code", None) or getattr(error, "code", None)
    status = int(code) if isinstance(code, (int, str)) and str(code).isdigit() else 0
    if isinstance(error, PermissionError) or "Forbidden" in str(error):
        status = 403
    if unknown_host(error):
        raise DataError(
            f"{label} cannot be listed: its host is unknown; check spelling and network"
        ) from error
    if 400 <= status < 500 and status not in HEALS:
        raise refusal(label, status) from error
    deepest = error
    while deepest.__cause__ is not None and isinstance(deepest.__cause__, Exception):
        deepest = deepest.__cause__  # the hub says that something failed, and within it what
    return TransientError(f"{type(deepest).__name__}: {deepest}"[:200])


class S3(Bucket):
    """``s3://bucket/folder``. An ETag of 32 digits is the MD5 of an object put in one piece."""

    def __init__(self, protocol: str, root: str) -> None:
        super().__init__(protocol, root)
        self.fs.retries = 1  # we count attempts ourselves

    def options(self) -> dict[str, Any]:
        """Sign requests where credentials are found."""
        import botocore.session  # needs the extra `remote`

        waits = {"connect_timeout": timeout(), "read_timeout": timeout()}
        return {
            "anon": botocore.session.Session().get_credentials() is None,
            "config_kwargs": {**waits, "retries": {"max_attempts": 1}},
            "cache_regions": True,  # a bucket answers only in its own region
        }

    def _put(self, path: Path, full: str) -> None:
        self.fs.put_file(str(path), full, chunksize=PART)

    def same(self, path: Path, item: Item) -> bool:
        """Compare also what was put in parts, whose ETag is the MD5 of the parts' MD5s."""
        if item.checksum is not None or item.size != path.stat().st_size:
            return super().same(path, item)
        with path.open("rb") as file:
            parts = [
                hashlib.md5(part, usedforsecurity=False).digest()
                for part in iter(lambda: file.read(PART), b"")
            ]
        whole = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        return item.tag.strip('"') == f"{whole}-{len(parts)}"

    def described(self, info: dict[str, Any]) -> Item:
        """Read size and ETag."""
        tag = info.get("ETag") or ""
        digest = tag.strip('"')
        whole = re.fullmatch(r"[0-9a-f]{32}", digest) is not None
        return Item(int(info["size"]), tag, ("md5", digest) if whole else None)

    def address(self, name: str, item: Item) -> Address:
        """Sign a request (without credentials: leave it unsigned)."""
        match = {"If-Match": item.tag} if item.tag else {}
        url = self._asked(lambda: self.fs.url(self._full(name)), name) or ""
        return Address(url, match, ("ETag", item.tag))


class GoogleStorage(Bucket):
    """``gs://bucket/folder``."""

    def kind(self, protocol: str) -> Callable[..., Any]:
        """Take what speaks HTTP alone: gcsfs's default asks by gRPC, which survives no fork."""
        from gcsfs.core import GCSFileSystem  # needs the extra `remote`

        return GCSFileSystem

    def options(self) -> dict[str, Any]:
        """Use default credentials where there are some."""
        import google.auth  # needs the extra `remote`
        from google.auth.exceptions import DefaultCredentialsError

        token = "anon"
        if "STORAGE_EMULATOR_HOST" not in os.environ:
            with suppress(DefaultCredentialsError):
                google.auth.default()
                token = "google_default"
        return {"token": token, "requests_timeout": timeout()}

    def _put(self, path: Path, full: str) -> None:
        self.fs.put_file(str(path), full, chunksize=GOOGLE_PART)

    def described(self, info: dict[str, Any]) -> Item:
        """Read size, generation and CRC-32C."""
        crc = base64.b64decode(info.get("crc32c") or "").hex()
        tag = str(info.get("generation") or info.get("etag") or "")
        return Item(int(info["size"]), tag, ("crc32c", crc) if crc else None)

    def address(self, name: str, item: Item) -> Address:
        """Add a token, if there is one."""
        headers: dict[str, str] = {}
        self._asked(lambda: self.fs.credentials.apply(headers), name)
        return Address(self.fs.url(self._full(name)), headers, ("x-goog-generation", item.tag))


class HuggingFace(Bucket):
    """``hf://datasets/owner/name``, at the commit that its branch had when this was opened."""

    def __init__(self, protocol: str, root: str) -> None:
        super().__init__(protocol, root)
        place = self._asked(lambda: self.fs.resolve_path(root), "")
        if place is None or not hasattr(place, "repo_id"):
            raise DataError(
                f"{self.label} is no repository of the hub that we can see; check the spelling "
                "(hf://datasets/owner/name) and HF_TOKEN"
            )
        about = {"repo_type": place.repo_type, "revision": place.revision}
        found = self._asked(lambda: self.fs._api.repo_info(place.repo_id, **about), "")
        kind = "" if place.repo_type == "model" else f"{place.repo_type}s/"
        self.place: Any = place
        self.commit: str = found.sha if found else place.revision
        self.root = f"{kind}{place.repo_id}@{self.commit}/{place.path_in_repo}".rstrip("/")

    def options(self) -> dict[str, Any]:
        """Leave the token to the package: HF_TOKEN, or what a login stored."""
        return {"endpoint": os.environ.get("HF_ENDPOINT")}

    def put(self, files: Mapping[str, Path]) -> None:
        """Write files in one commit to the branch; this address then is that commit."""
        from huggingface_hub import CommitOperationAdd  # needs the extra `remote`
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()  # this goes on beside a line of ours
        made = [
            CommitOperationAdd(path_in_repo=self._inside(name), path_or_fileobj=path)
            for name, path in files.items()
        ]
        self._commit(made, f"saccade: {len(made)} files")

    def remove(self, names: Sequence[str]) -> None:
        """Delete files in one commit."""
        from huggingface_hub import CommitOperationDelete  # needs the extra `remote`

        gone = [CommitOperationDelete(path_in_repo=self._inside(name)) for name in names]
        self._commit(gone, f"saccade: {len(gone)} files deleted")

    def _inside(self, name: str) -> str:
        return f"{self.place.path_in_repo}/{name}".lstrip("/")

    def _commit(self, operations: Sequence[Any], message: str) -> None:
        about = {"repo_type": self.place.repo_type, "revision": self.place.revision}
        made = self._asked(
            lambda: self.fs._api.create_commit(
                self.place.repo_id, operations, commit_message=message, **about
            ),
            "",
            "written",
        )
        if made is not None:
            self.root = self.root.replace(self.commit, made.oid, 1)
            self.commit = made.oid

    def described(self, info: dict[str, Any]) -> Item:
        """Read size and hash: SHA-256 of large files, git's SHA-1 of small ones."""
        large = info.get("lfs") or {}
        if large:
            return Item(int(info["size"]), large["sha256"], ("sha256", large["sha256"]))
        blob = info.get("blob_id") or ""
        return Item(int(info["size"]), blob, ("git", blob) if blob else None)

    def address(self, name: str, item: Item) -> Address:
        """Return the address of the file in that commit, which never changes."""
        from huggingface_hub.utils import build_hf_headers  # needs the extra `remote`

        repository, _, path = self._full(name).partition("@")
        commit, _, path = path.partition("/")
        url = f"{self.fs.endpoint}/{repository}/resolve/{commit}/{quote(path)}"
        return Address(url, build_hf_headers())


class WebServer(Store):
    """``https://host/folder``: sizes from answers, names from a page of links if there is one."""

    recursive = False

    def __init__(self, protocol: str, root: str) -> None:
        self.root = f"{protocol}://{root}"

    def children(self, under: str) -> dict[str, Item | None]:
        """List the links that point directly into the folder; sizes are asked for when needed."""
        page = self._url(f"{under}/" if under else "") + ("" if under else "/")
        answer = ask(page, Address(page))
        if answer.status_code == 404 and under:
            return {}
        if answer.status_code != 200 or "html" not in answer.headers.get("Content-Type", ""):
            raise DataError(
                f"{page} is not listed by its server ({answer.status_code}); use a format that "
                "names its files (LeRobot), or download the folder"
            )
        start, names = urlsplit(page).path, {}
        for link in re.findall(r"""href\s*=\s*["']([^"'#?]+)["']""", answer.text, re.IGNORECASE):
            target = urlsplit(urljoin(page, link))
            name = target.path.removeprefix(start)
            inside = target.netloc == urlsplit(page).netloc and target.path.startswith(start)
            if inside and re.fullmatch(r"[^/]+/?", name):
                names[unquote(name)] = None
        return names

    def all(self, under: str) -> dict[str, Item]:
        """Not offered: folders are listed one by one."""
        raise NotImplementedError

    def item(self, name: str) -> Item | None:
        """Ask for the first byte, whose answer has the size; servers differ on HEAD."""
        label = self._url(name)
        answer = ask(label, Address(label, {"Range": "bytes=0-0"}), body=False)
        if answer.status_code in (404, 410):
            return None
        if answer.status_code == 416:  # an empty file has no first byte
            return Item(0, _tag(answer.headers))
        if answer.status_code not in (200, 206):
            raise refusal(label, answer.status_code)
        refuse_page(answer, label)
        return self._described(answer, label)

    def _described(self, answer: Any, label: str) -> Item:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        ranges = answer.status_code == 206
        size = total if ranges else answer.headers.get("Content-Length", "")
        if not size.isdigit():
            raise DataError(
                f"{label}: the server does not say how long it is, so a cut would go unseen; "
                "download it by other means and give the local folder"
            )
        return Item(int(size), _tag(answer.headers), None, ranges)

    def address(self, name: str, item: Item) -> Address:
        """Return the address."""
        header = item.tag.partition("=")[0]
        return Address(self._url(name), {}, (header, item.tag.partition("=")[2]))

    def _url(self, name: str) -> str:
        return f"{self.root}/{quote(name)}" if name else self.root


def _tag(headers: Any) -> str:
    """Return what changes with the content, and the name of its header."""
    name = next((name for name in ("ETag", "Last-Modified") if name in headers), "")
    return f"{name}={headers.get(name, '')}"


STORES: dict[str, type[S3] | type[GoogleStorage] | type[HuggingFace] | type[WebServer]] = {
    "gs": GoogleStorage,
    "gcs": GoogleStorage,
    "s3": S3,
    "hf": HuggingFace,
    "http": WebServer,
    "https": WebServer,
}


def connect(root: str) -> Store:
    """Open the store in which an address lies.

    Raises:
        ConfigError: a package for it is missing.
        DataError: it cannot be reached.
    """
    scheme, _, rest = root.partition("://")
    return STORES[scheme](scheme, rest)
