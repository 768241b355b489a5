"""Parts of files over HTTP: complete and of the version that was listed, or an error.

What may heal (a cut or silent connection, 5xx, 429) is tried again from the byte where it broke,
with growing, random pauses; what will not (403, 404, an unknown host) is an error at once.
"""

import hashlib
import mmap
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache
from math import inf

from crc32c import crc32c

from saccade.errors import ConfigError, DataError

try:
    import requests
    import urllib3
    from requests.adapters import HTTPAdapter
except ImportError as error:
    raise ConfigError(
        f"data in a bucket need more packages ({error}); pip install 'saccade[remote]'"
    ) from error

ATTEMPTS = 6  # in a row without one more byte
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 16.0  # seconds
SLOWEST = 16 * 2**10  # bytes per second, below which a connection counts as stalled
CHUNK = 2**18  # bytes read at once
CONNECTIONS = 16
HEALS = {408, 425, 429}  # and every 5xx
HEALING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Item:
    """A file in a store: ``tag`` changes with its content, ``checksum`` is (algorithm, hex)."""

    size: int
    tag: str
    checksum: tuple[str, str] | None = None
    ranges: bool = True  # whether parts can be asked for


@dataclass(frozen=True)
class Address:
    """How to ask for a file; ``version`` is an answer's header and the value it must have."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    version: tuple[str, str] = ("", "")


class TransientError(Exception):
    """A fault that may heal; ``wait`` is how long the server wants to be left alone."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class ChangedError(Exception):
    """The file is no longer the one that was listed."""


def timeout() -> float:
    """Return after how many seconds of silence a connection counts as broken."""
    text = os.environ.get("SACCADE_REMOTE_TIMEOUT", "20")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise ConfigError(f"SACCADE_REMOTE_TIMEOUT is {text!r}, expected seconds")
    return seconds


class Attempts:
    """Counts the failures of one request, waits between them and gives up in the end.

    ``label`` is the file, ``what`` is to happen to it; ``progressed`` starts the count anew.
    """

    def __init__(self, label: str, what: str = "fetched") -> None:
        self.label, self.what = label, what
        self.failed, self.begun = 0, time.monotonic()

    def progressed(self) -> None:
        """Note that something arrived."""
        self.failed, self.begun = 0, time.monotonic()

    def again(self, error: TransientError, had: str) -> None:
        """Wait before another attempt; ``had`` says what arrived so far.

        Raises:
            DataError: that was the last one.
        """
        self.failed += 1
        pause = min(FIRST_PAUSE * 2 ** (self.failed - 1), LONGEST_PAUSE)
        pause = max(pause * random.SystemRandom().uniform(0.5, 1.0), error.wait)
        spent = time.monotonic() - self.begun
        if self.failed >= ATTEMPTS or spent + pause > ATTEMPTS * timeout():
            times = f"{self.failed} attempt{'s' * (self.failed > 1)}"
            raise DataError(
                f"{self.label} cannot be {self.what}: {error} ({times} in {spent:.0f} s, {had}); "
                "check the network and run again, what arrived is kept"
            ) from error
        time.sleep(pause)


def fetch(
    locate: Callable[[], Address],
    label: str,
    span: tuple[int, int],
    item: Item,
    take: Callable[[bytes], None],
) -> None:
    """Give ``take`` the bytes of a file from ``span[0]`` up to ``span[1]``, in order.

    Raises:
        DataError: they cannot be had.
        ChangedError: the file is another one by now.
    """
    position, end = span
    attempts = Attempts(label)
    while position < end:
        try:
            for data in _answer(locate(), label, (position, end), item):
                take(data)
                position += len(data)
                attempts.progressed()
        except TransientError as error:
            attempts.again(error, f"{position - span[0]:,} of {end - span[0]:,} bytes arrived")


def ask(label: str, address: Address, body: bool = True) -> requests.Response:
    """Return the answer to a small request, whatever its status, except those that may heal.

    Without ``body`` only the headers are read: a server may send all of a file.

    Raises:
        DataError: the server cannot be reached.
    """
    attempts = Attempts(label)
    while True:
        try:
            with (
                _network(label),
                _session(os.getpid()).get(
                    address.url,
                    headers={"Accept-Encoding": "identity", **address.headers},
                    timeout=timeout(),
                    stream=not body,
                ) as answer,
            ):
                _healing(answer)
                return answer
        except TransientError as error:
            attempts.again(error, "nothing arrived")


def _answer(address: Address, label: str, span: tuple[int, int], item: Item) -> Iterator[bytes]:
    """Make one request and yield what arrives; ends only where the span does."""
    start, end = span
    wanted = {"Range": f"bytes={start}-{end - 1}"} if item.ranges else {}
    headers = {"Accept-Encoding": "identity", **address.headers, **wanted}
    begun, position, received = time.monotonic(), start, 0
    with (
        _network(label),
        _session(os.getpid()).get(
            address.url, headers=headers, timeout=timeout(), stream=True
        ) as answer,
    ):
        skip = start - _judge(answer, address, label, span, item)
        for data in answer.raw.stream(CHUNK, decode_content=False):
            received += len(data)
            data, skip = data[skip:], max(skip - len(data), 0)
            data = data[: end - position]
            position += len(data)
            if data:
                yield data
            if position == end:
                return
            seconds = time.monotonic() - begun - timeout()
            if seconds > 0 and received < SLOWEST * seconds:
                raise TransientError(f"the connection stalled at byte {position:,}")
    raise TransientError(f"the answer ended at byte {position:,} of {end:,}")


def _judge(
    answer: requests.Response, address: Address, label: str, span: tuple[int, int], item: Item
) -> int:
    """Check status and headers of an answer; return the byte at which its body begins."""
    _healing(answer)
    status, headers = answer.status_code, answer.headers
    if status in (412, 416):
        raise ChangedError(f"the server has no bytes {span[0]:,} to {span[1]:,} of it ({status})")
    if status not in (200, 206):
        raise refusal(label, status)
    refuse_page(answer, label)
    if headers.get("Content-Encoding", "identity") != "identity":
        raise DataError(
            f"{label} is stored compressed ({headers['Content-Encoding']}), so parts of it cannot "
            "be read; download it whole and give the local folder"
        )
    name, version = address.version
    if version and headers.get(name, version) != version:
        raise ChangedError(f"its {name} is {headers[name]}, listed was {version}")
    if status == 200:
        length = headers.get("Content-Length", str(item.size))
        if length != str(item.size):
            raise ChangedError(f"it has {length} bytes, listed were {item.size}")
        return 0
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
    if found is None or int(found[1]) != span[0] or int(found[2]) >= span[1]:
        raise TransientError(
            f"asked for bytes {span[0]:,} to {span[1]:,}, the server answered with "
            f"{headers.get('Content-Range', 'no Content-Range')!r:.60}"
        )
    if found[3] not in ("*", str(item.size)):
        raise ChangedError(f"it has {found[3]} bytes, listed were {item.size}")
    return span[0]


def refuse_page(answer: requests.Response, label: str) -> None:
    """Refuse HTML that comes in place of a file.

    Raises:
        DataError: it does.
    """
    kind = answer.headers.get("Content-Type", "")
    if kind.startswith("text/html") and not label.endswith((".html", ".htm")):
        raise DataError(
            f"{label}: the server sent a web page instead ({answer.status_code}, {kind}), as "
            "proxies and login pages do; check the address, the proxy and the credentials"
        )


def refusal(label: str, status: int) -> DataError:
    """Return the error for an answer that will not change by asking again."""
    mends = {404: "check the spelling", 410: "it was deleted"}
    hint = mends.get(status, "check the credentials and your rights, or the address")
    return DataError(f"{label} cannot be fetched: the server answered {status}; {hint}")


def unknown_host(error: BaseException) -> bool:
    """Whether a name could not be resolved, somewhere down the causes of an error."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, (socket.gaierror, urllib3.exceptions.NameResolutionError)):
            return True
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return False


def _healing(answer: requests.Response) -> None:
    if answer.status_code in HEALS or answer.status_code >= 500:
        wait = _seconds(answer.headers.get("Retry-After", ""))
        asks = f" and asks to wait {wait:.0f} s" if wait else ""
        raise TransientError(f"the server answered {answer.status_code}{asks}", wait)


def _seconds(text: str) -> float:
    """Read a Retry-After: seconds, or a date."""
    if text.isdigit():
        return float(text)
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


@contextmanager
def _network(label: str) -> Iterator[None]:
    """Sort the faults of a connection into those that may heal and errors."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        if unknown_host(error):
            raise DataError(
                f"{label} cannot be fetched: its host is unknown; check spelling and network"
            ) from error
        heals = (
            requests.ConnectionError,
            requests.Timeout,
            requests.exceptions.ChunkedEncodingError,
        )
        ours = isinstance(error, requests.RequestException) and not isinstance(error, heals)
        if ours or isinstance(error, requests.exceptions.SSLError):
            raise DataError(
                f"{label} cannot be fetched ({_short(error)}); check address and certificates"
            ) from error
        raise TransientError(f"the connection broke ({_short(error)})") from error


def _short(error: BaseException) -> str:
    """Name the innermost cause: what requests says of itself is long and holds signed addresses."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__ or error
    return f"{type(error).__name__}: {error}"[:120]


@lru_cache(maxsize=1)
def _session(process: int) -> requests.Session:
    """Keep connections open; those of another process are not ours to use after a fork."""
    session = requests.Session()
    adapter = HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def digest(algorithm: str, data: bytes | mmap.mmap) -> tuple[str, str]:
    """Return the checksum of a whole file as a store writes it."""
    if algorithm == "crc32c":
        return algorithm, f"{crc32c(data):08x}"
    if algorithm == "git":
        header = hashlib.sha1(b"blob %d\0" % len(data), usedforsecurity=False)
        header.update(data)
        return algorithm, header.hexdigest()
    return algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
