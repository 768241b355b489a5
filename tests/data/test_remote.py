"""Data in a bucket read like data on disk, and no broken transfer is ever taken for data."""

import errno
import functools
import hashlib
import importlib.util
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import boto3
import fsspec
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer

from saccade.data import remote, remote_cache, remote_stores, remote_transfer
from saccade.data.folder import open_folder
from saccade.data.formats import open_episodes
from saccade.data.remote import RemoteFolder
from saccade.data.remote_cache import twins
from saccade.data.remote_twin import BLOCK, ENTRY, HEAD, blocks_of
from saccade.errors import ConfigError, DataError, SpaceError
from tests.contracts import check_reader, digest
from tests.fixtures import bridge, droid_raw, egodex, libero, rlds, video_folder
from tests.fixtures import lerobot as lerobot_fixture
from tests.fixtures.clouds import clouds
from tests.fixtures.fault_proxy import Fault, FaultProxy, fault_proxy

SIZE = 5 * BLOCK + 12345
BIG = np.random.default_rng(0).bytes(SIZE)
PUBLIC: dict[str, Any] = {"ACL": "public-read"}


@pytest.fixture(scope="module")
def moto() -> Iterator[Any]:
    """A client of a real S3 server on loopback, which holds one bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client: Any = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="robots", **PUBLIC)
    client.address = (host, port)
    for name in ("im_2.txt", "im_10.txt", "sub/a.txt", ".hidden", "sub/b.part", "sub/.x/c.txt"):
        client.put_object(Bucket="robots", Key=f"set/{name}", Body=name.encode(), **PUBLIC)
    client.put_object(Bucket="robots", Key="set/empty", Body=b"", **PUBLIC)
    client.put_object(Bucket="robots", Key="set/it is 100%.txt", Body=b"odd", **PUBLIC)
    yield client
    server.stop()


@pytest.fixture
def proxy(moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """All requests go through a proxy that can break them; cache and credentials are fresh."""
    moto.put_object(Bucket="robots", Key="set/big.bin", Body=BIG, **PUBLIC)
    for name in [name for name in os.environ if name.startswith(("AWS_", "SACCADE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "5")
    monkeypatch.setattr(remote_transfer, "FIRST_PAUSE", 0.01)
    with fault_proxy(*moto.address) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy
    twins.cache_clear()


@pytest.fixture
def folder(proxy: FaultProxy) -> RemoteFolder:
    opened = open_folder("s3://robots/set")
    assert isinstance(opened, RemoteFolder)
    return opened


def twin_files(tmp_path: Path) -> list[Path]:
    records = (tmp_path / "cache" / "remote").glob("*/*.blocks")
    return [path.with_name(path.name.removesuffix(".blocks")) for path in records]


def test_lists_like_a_folder_on_disk(folder: RemoteFolder) -> None:
    assert folder.children() == [
        "big.bin",
        "empty",
        "im_2.txt",
        "im_10.txt",
        "it is 100%.txt",
        "sub/",
    ]
    assert folder.children("sub") == ["a.txt"]
    assert folder.children("nothing") == []
    assert folder.names(suffix=".txt") == ["im_2.txt", "im_10.txt", "it is 100%.txt", "sub/a.txt"]
    assert folder.names("sub") == ["sub/a.txt"]
    assert "sub/a.txt" in folder
    assert "sub" not in folder
    assert "sub/nothing" not in folder
    assert (folder.size("big.bin"), folder.size("empty")) == (SIZE, 0)
    assert folder.stamp("big.bin") == f'{SIZE}-"{hashlib.md5(BIG).hexdigest()}"'
    assert folder.label("a b") == "s3://robots/set/a b"
    assert folder.read("it is 100%.txt") == b"odd"
    assert folder.read("empty") == b""
    assert bytes(folder.view("empty", 0, 0)) == b""
    for use in (folder.size, folder.path, folder.read, lambda name: folder.view(name, 0, 1)):
        with pytest.raises(DataError, match=r"s3://robots/set/nothing is missing"):
            use("nothing")
    with pytest.raises(DataError, match="ends at 8 bytes, needed are 2 to 12"):
        folder.view("im_2.txt", 2, 10)


@pytest.mark.parametrize(
    "root", ["s3://robots/nothing", "s3://nobody/set", "s3://robots/set/empty"]
)
def test_what_is_no_folder_is_said(proxy: FaultProxy, root: str) -> None:
    with pytest.raises(DataError, match=rf"{root} is no folder with files"):
        open_folder(root)


def test_other_addresses_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of gs://"):
        open_folder("ftp://host/x")
    with pytest.raises(ConfigError, match=r"host has a password.*netrc"):
        open_folder("https://me:secret@host/x")


def test_fetches_only_what_is_looked_at(folder: RemoteFolder, proxy: FaultProxy) -> None:
    start = 2 * BLOCK + 100
    assert bytes(folder.view("big.bin", start, BLOCK)) == BIG[start : start + BLOCK]
    assert proxy.sent("big.bin") == 2 * BLOCK
    assert proxy.asked("big.bin") == [f"bytes={2 * BLOCK}-{4 * BLOCK - 1}"]
    assert bytes(folder.view("big.bin", start, 5)) == BIG[start : start + 5]
    assert len(proxy.asked("big.bin")) == 1
    path = folder.path("big.bin")
    assert path.read_bytes() == BIG
    assert path.name.endswith("-big.bin")
    assert proxy.sent("big.bin") == SIZE
    copy = pickle.loads(pickle.dumps(folder))
    assert copy.path("big.bin") == path
    assert proxy.sent("big.bin") == SIZE


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_a_cut_connection_goes_on_where_it_broke(
    folder: RemoteFolder, proxy: FaultProxy, share: float
) -> None:
    proxy.faults.append(Fault(cut=share))
    assert folder.path("big.bin").read_bytes() == BIG
    second = int(proxy.asked("big.bin")[1].partition("=")[2].partition("-")[0])
    assert second == pytest.approx(SIZE * share, abs=2**18)
    assert proxy.sent("big.bin") < SIZE + 2**18


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503, headers={"Retry-After": "0"}),
        Fault(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Fault(cut=0.3, headers={"Content-Length": None}),
        Fault(headers={"Content-Length": None}),
        Fault(headers={"Content-Range": "bytes 5-9/123"}),
        Fault(headers={"Content-Range": None}),
        Fault(cut=0.5, stall=20.0),
        Fault(cut=0.0),
    ],
    ids=str,
)
def test_what_may_heal_is_tried_again(
    folder: RemoteFolder, proxy: FaultProxy, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "0.5")
    proxy.faults.extend([fault, fault])
    assert folder.path("big.bin").read_bytes() == BIG


@pytest.mark.parametrize(
    ("fault", "words", "requests"),
    [
        (Fault(status=403, body=b""), "server answered 403; check the credentials", 1),
        (Fault(status=404, body=b""), "server answered 404; check the spelling", 1),
        (
            Fault(status=200, body=b"<html>log in</html>", headers={"Content-Type": "text/html"}),
            r"sent a web page instead \(200, text/html\)",
            1,
        ),
        (Fault(headers={"Content-Encoding": "gzip"}), r"stored compressed \(gzip\)", 1),
        (Fault(status=500), r"answered 500 \(6 attempts in \d s, 0 of 5,255,225 bytes arr", 6),
        (Fault(cut=0.0), r"6 attempts in .* check the network and run again", 6),
        (
            Fault(status=429, headers={"Retry-After": "1000"}),
            r"asks to wait 1000 s \(1 attempt ",
            1,
        ),
        (
            Fault(status=416, body=b""),
            r"no bytes 0 to 5,255,225 of it \(416\), in each of",
            2,
        ),
        (Fault(status=412, body=b""), r"\(412\), in each of 2", 2),
        (Fault(headers={"ETag": '"x"'}), r'ETag is "x", listed was', 2),
        (Fault(headers={"Content-Range": f"bytes 0-{SIZE - 1}/9"}), "has 9 bytes, listed were", 2),
        (Fault(status=200, body=b"short", headers={"Content-Range": None}), "has 5 bytes, list", 2),
        (Fault(flip=True), r"its \('md5', '\w+'\) is not that of the bytes received", 2),
    ],
    ids=str,
)
def test_what_does_not_heal_is_an_error_and_leaves_nothing_behind(
    folder: RemoteFolder, proxy: FaultProxy, fault: Fault, words: str, requests: int
) -> None:
    proxy.always = fault
    with pytest.raises(DataError, match=rf"s3://robots/set/big\.bin.*{words}"):
        folder.path("big.bin")
    data = [span for span in proxy.asked("big.bin") if span != "bytes=0-0"]
    assert len(data) == requests
    proxy.always = None
    assert folder.path("big.bin").read_bytes() == BIG
    assert bytes(folder.view("big.bin", SIZE - 9, 9)) == BIG[-9:]


def test_listings_are_tried_again_too(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.listing.extend([Fault(status=500, body=b""), Fault(status=503, body=b""), Fault(cut=0.5)])
    assert "im_2.txt" in open_folder("s3://robots/set").children()
    proxy.listing.extend([Fault(status=403, body=b"")] * 3)
    with pytest.raises(DataError, match=r"s3://robots/set cannot be fetched: .* answered 403"):
        open_folder("s3://robots/set")
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "0.2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"s3://robots/set cannot be fetched: .*\(\d attempts? in"):
        open_folder("s3://robots/set")


def test_a_private_file_says_so(proxy: FaultProxy, moto: Any) -> None:
    moto.put_object(Bucket="robots", Key="set/private.bin", Body=b"mine", ACL="private")
    with pytest.raises(DataError, match=r"private.bin cannot be fetched: .*403; check the cred"):
        open_folder("s3://robots/set").path("private.bin")


def test_credentials_are_used_where_there_are_some(
    proxy: FaultProxy, moto: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto.put_object(Bucket="robots", Key="set/private.bin", Body=b"mine", ACL="private")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    assert open_folder("s3://robots/set").read("private.bin") == b"mine"


def test_a_file_that_is_replaced_is_read_anew_and_never_mixed(
    folder: RemoteFolder, moto: Any
) -> None:
    old = folder.view("big.bin", 0, 10)
    new = BIG[::-1] + b"more"
    moto.put_object(Bucket="robots", Key="set/big.bin", Body=new, **PUBLIC)
    assert bytes(folder.view("big.bin", 4 * BLOCK, 10)) == new[4 * BLOCK :][:10]
    assert bytes(folder.view("big.bin", 0, 10)) == new[:10]
    assert bytes(old) == BIG[:10], "a view that was handed out must not change"
    assert folder.path("big.bin").read_bytes() == new
    assert folder.size("big.bin") == len(new)


def test_a_file_encrypted_with_a_key_of_its_own_has_no_md5(
    folder: RemoteFolder, proxy: FaultProxy
) -> None:
    proxy.always = Fault(flip=True, headers={"x-amz-server-side-encryption": "aws:kms"})
    assert folder.path("big.bin").read_bytes()[1:] == BIG[1:]


def test_a_damaged_cache_is_mended(folder: RemoteFolder, proxy: FaultProxy, tmp_path: Path) -> None:
    folder.path("big.bin")
    [path] = [path for path in twin_files(tmp_path) if path.name.endswith("big.bin")]
    before = proxy.sent("big.bin")
    damage = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(3 * BLOCK + 7)
        file.write(bytes([damage[3 * BLOCK + 7] ^ 1]))
    twins.cache_clear()  # as in another process
    assert folder.path("big.bin").read_bytes() == BIG
    assert proxy.sent("big.bin") == before + BLOCK

    for spoil in (
        lambda: os.truncate(path, 100),
        lambda: os.truncate(blocks_of(path), 4100),
        lambda: blocks_of(path).write_bytes(b"\xff" * blocks_of(path).stat().st_size),
        path.unlink,
        blocks_of(path).unlink,
        lambda: shutil.rmtree(tmp_path / "cache"),
    ):
        spoil()
        assert folder.path("big.bin").read_bytes() == BIG


def test_a_hole_is_never_taken_for_data(folder: RemoteFolder, proxy: FaultProxy) -> None:
    """A kill between the pixels and the note that they are there: they are fetched again."""
    path = folder.path("big.bin")
    with blocks_of(path).open("r+b") as record:
        record.seek(HEAD + ENTRY)
        record.write(bytes(ENTRY))
    with path.open("r+b") as file:
        file.seek(BLOCK)
        file.write(bytes(BLOCK))
    twins.cache_clear()
    assert bytes(folder.view("big.bin", BLOCK, BLOCK)) == BIG[BLOCK : 2 * BLOCK]


def download(folder: RemoteFolder, paths: Any = None) -> None:
    path = folder.path("big.bin")
    if paths is not None:
        paths.put(str(path))


def noted(path: Path) -> bool:
    return any(blocks_of(path).read_bytes()[HEAD:])


def test_a_killed_download_goes_on(folder: RemoteFolder, proxy: FaultProxy, tmp_path: Path) -> None:
    proxy.pause = 0.02
    process = multiprocessing.get_context("fork").Process(target=download, args=(folder,))
    process.start()
    time.sleep(4.5 * BLOCK / 2**16 * proxy.pause)
    while not any(noted(path) for path in twin_files(tmp_path)):
        time.sleep(0.01)
    assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    proxy.pause = 0.0
    with proxy.lock:
        proxy.log.clear()
    assert folder.path("big.bin").read_bytes() == BIG
    assert 0 < proxy.sent("big.bin") <= SIZE - 4 * BLOCK


def test_two_processes_fetch_each_byte_once(folder: RemoteFolder, proxy: FaultProxy) -> None:
    proxy.pause = 0.005
    context = multiprocessing.get_context("fork")
    paths = context.SimpleQueue()
    processes = [context.Process(target=download, args=(folder, paths)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [paths.get() for _ in processes]
    for process in processes:
        process.join()
    assert found == [str(folder.path("big.bin"))] * 2
    assert folder.path("big.bin").read_bytes() == BIG
    assert proxy.sent("big.bin") == SIZE


def test_the_cache_stays_within_its_limit(
    proxy: FaultProxy, moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_REMOTE_CACHE_GB", "0.005")
    parts = {f"part_{i}.bin": BIG[i : i + BLOCK] for i in range(9)}
    for name, data in parts.items():
        moto.put_object(Bucket="robots", Key=f"set/{name}", Body=data, **PUBLIC)
    folder = open_folder("s3://robots/set")
    kept = folder.view("part_0.bin", 0, BLOCK)
    for name, data in parts.items():
        assert bytes(folder.view(name, 0, BLOCK)) == data
        held = [path.stat().st_blocks * 512 for path in twin_files(tmp_path)]
        assert sum(held) <= 5e6
    left = {path.name.partition("-")[2] for path in twin_files(tmp_path)}
    assert {"part_0.bin", "part_8.bin"} <= left, "what is in use, or was last, must stay"
    assert bytes(kept) == parts["part_0.bin"]
    with pytest.raises(SpaceError, match=r"no room for 0.01 GB of s3://.*SACCADE_REMOTE_CACHE_GB"):
        folder.path("big.bin")
    for name in parts:
        moto.delete_object(Bucket="robots", Key=f"set/{name}")


def test_what_another_process_has_open_stays(
    folder: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    worker = context.Process(target=hold, args=(folder, ready, done))
    worker.start()
    assert ready.wait(30)
    monkeypatch.setenv("SACCADE_REMOTE_CACHE_GB", "0.00527")
    with pytest.warns(UserWarning, match="downloads in use need"):
        folder.path("big.bin")
    assert len([path for path in twin_files(tmp_path) if "im_" in path.name]) == 1
    done.set()
    worker.join()
    assert worker.exitcode == 0


def hold(folder: RemoteFolder, ready: Any, done: Any) -> None:
    view = folder.view("im_2.txt", 0, 8)
    ready.set()
    done.wait(30)
    assert bytes(view) == b"im_2.txt"


def test_a_cache_that_cannot_be_written_says_which_setting(
    folder: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot keep downloads.*set SACCADE_CACHE"):
        folder.read("im_2.txt")
    for name, text in (("SACCADE_REMOTE_CACHE_GB", "much"), ("SACCADE_REMOTE_TIMEOUT", "-1")):
        monkeypatch.setenv("SACCADE_CACHE", str(tmp_path / "fine"))
        monkeypatch.setenv(name, text)
        with pytest.raises(ConfigError, match=f"{name} is '{text}', expected"):
            folder.read("im_10.txt")
        monkeypatch.delenv(name)


def test_a_full_disk_is_said_and_what_arrived_is_kept(
    folder: RemoteFolder, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(remote_cache, "KEPT_FREE", 2**62)
        with pytest.raises(SpaceError, match=r"no room for 0.01 GB of .*big.bin.* GB are free"):
            folder.path("big.bin")
    real, written = os.pwrite, 0

    def full(file: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += len(data)
        if written > 4.5 * BLOCK:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(SpaceError, match="no room for"):
            folder.path("big.bin")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing)
        with pytest.raises(DataError, match=r"big.bin cannot be kept in .*set SACCADE_CACHE"):
            folder.path("big.bin")
    with proxy.lock:
        proxy.log.clear()
    assert folder.path("big.bin").read_bytes() == BIG
    assert proxy.sent("big.bin") <= SIZE - 4 * BLOCK


def failing(file: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_connection_that_drips_is_broken_off(
    folder: RemoteFolder, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "0.2")
    monkeypatch.setattr(remote_transfer, "SLOWEST", 10**12)
    proxy.pause = 0.02
    assert bytes(folder.view("big.bin", 0, BLOCK)) == BIG[:BLOCK]
    assert len(proxy.asked("big.bin")) > 1


@pytest.fixture
def lerobot_uri(proxy: FaultProxy, moto: Any, lerobot: Path) -> str:
    for path in lerobot.rglob("*"):
        if path.is_file():
            key = f"toy/{path.relative_to(lerobot)}"
            moto.put_object(Bucket="robots", Key=key, Body=path.read_bytes(), **PUBLIC)
    return "s3://robots/toy"


def test_a_data_set_in_a_bucket_is_the_one_on_disk(
    lerobot_uri: str, lerobot: Path, proxy: FaultProxy
) -> None:
    there, here = open_episodes(lerobot_uri), open_episodes(lerobot)
    assert not [path for path, _, _ in proxy.log if path.endswith(".mp4")], "opened is not read"
    check_reader(there)
    assert (there.lengths, there.tasks, there.fps) == (here.lengths, here.tasks, here.fps)
    for episode in range(len(here.lengths)):
        assert digest(there, episode) == digest(here, episode)
    sent = len(proxy.log)
    again = open_episodes(lerobot_uri)
    assert digest(again, 0) == digest(here, 0)
    assert not [path for path, span, _ in proxy.log[sent:] if span], "nothing is fetched twice"


WRITERS: dict[str, Any] = {
    "bridge": bridge.write_bridge,
    "bridge-numpy": bridge.write_bridge_numpy,
    "bridge-raw": bridge.write_bridge_raw,
    "droid": rlds.write_droid,
    "droid-raw": droid_raw.write_droid_raw,
    "egodex": egodex.write_egodex,
    "lerobot": lerobot_fixture.write_lerobot,
    "libero": libero.write_libero,
    "video": video_folder.write_video_folder,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_from_a_bucket(
    proxy: FaultProxy, moto: Any, tmp_path: Path, name: str
) -> None:
    root = tmp_path / name
    root.mkdir()
    WRITERS[name](root)
    for path in root.rglob("*"):
        if path.is_file():
            key = f"{name}/{path.relative_to(root)}"
            moto.put_object(Bucket="robots", Key=key, Body=path.read_bytes(), **PUBLIC)
    here, there = open_episodes(root), open_episodes(f"s3://robots/{name}")
    assert type(there) is type(here)
    assert there.fingerprint == here.fingerprint
    assert (there.lengths, there.tasks) == (here.lengths, here.tasks)
    episode = int(np.argmax(here.lengths))
    camera, frames = here.cameras_of(episode)[:1], np.array([here.lengths[episode] - 1, 0])
    one, two = (data.read(episode, frames, camera) for data in (here, there))
    assert all(torch.equal(one[key], two[key]) for key in ("video", "state", "action"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A plain web server, without ranges, that lists folders as pages of links."""
    root = tmp_path / "site"
    (root / "set" / "sub").mkdir(parents=True)
    (root / "set" / "big file.bin").write_bytes(BIG)
    (root / "set" / "sub" / "a.json").write_text(json.dumps({"a": 1}))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Handler, directory=str(root))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/set"
        server.shutdown()
        thread.join()


def test_reads_from_a_web_server(proxy: FaultProxy, site: str) -> None:
    folder = open_folder(site)
    assert folder.children() == ["big file.bin", "sub/"]
    assert folder.names() == ["big file.bin", "sub/a.json"]
    assert folder.read("sub/a.json") == b'{"a": 1}'
    assert bytes(folder.view("big file.bin", BLOCK + 5, 10)) == BIG[BLOCK + 5 :][:10]
    assert folder.path("big file.bin").read_bytes() == BIG
    assert "nothing" not in folder
    assert folder.children("nothing") == []
    assert folder.size("sub/a.json") == 8


def test_reads_ranges_from_a_web_server_without_listings(proxy: FaultProxy, moto: Any) -> None:
    folder = open_folder(f"{proxy.url}/robots/set")
    assert bytes(folder.view("big.bin", BLOCK + 5, 10)) == BIG[BLOCK + 5 :][:10]
    assert proxy.sent("big.bin") == 1 + BLOCK
    moto.put_object(Bucket="robots", Key="set/big.bin", Body=BIG[::-1], **PUBLIC)
    assert bytes(folder.view("big.bin", 0, 9)) == BIG[::-1][:9]
    with pytest.raises(DataError, match="is not listed by its server"):
        folder.children()
    proxy.always = Fault(status=200, body=b"<html>", headers={"Content-Type": "text/html"})
    with pytest.raises(DataError, match="sent a web page instead"):
        folder.size("im_2.txt")
    gone: dict[str, str | None] = {"Content-Length": None, "Content-Range": None}
    proxy.always = Fault(status=200, headers=gone)
    with pytest.raises(DataError, match="does not say how long it is"):
        folder.size("im_10.txt")


def test_an_unknown_host_is_said_at_once(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid")
    for root in ("https://no-such-host.invalid/set", "s3://robots/set"):
        begun = time.monotonic()
        with pytest.raises(DataError, match="its host is unknown; check spelling and network"):
            open_folder(root).names()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("root", ["gs://robots/set", "hf://datasets/lab/robots/set"])
def test_reads_from_other_clouds(
    proxy: FaultProxy, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"set/big.bin": BIG, "set/sub/a b.txt": b"small", "set/sub/.x": b"", "other/x": b"y"}
    with clouds(files) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv("HF_ENDPOINT", address)
        folder = open_folder(root)
        assert folder.children() == ["big.bin", "sub/"]
        assert folder.names() == ["big.bin", "sub/a b.txt"]
        assert bytes(folder.view("big.bin", BLOCK + 3, 9)) == BIG[BLOCK + 3 :][:9]
        assert folder.path("big.bin").read_bytes() == BIG
        again = pickle.loads(pickle.dumps(folder))
        assert again.read("sub/a b.txt") == b"small"
        assert ("sub/a b.txt" in again, "sub/b" in again) == (True, False)
        with pytest.raises(DataError, match=r"nothing (is no folder|cannot be fetched)"):
            open_folder(root.replace("set", "nothing"))
        assert isinstance(folder, RemoteFolder)
        item = folder._item("big.bin")
        assert item.checksum == remote.digest({"gs": "crc32c", "hf": "sha256"}[root[:2]], BIG)
        files["set/sub/a b.txt"] = b"other"
        if root.startswith("gs"):
            twins.cache_clear()
            shutil.rmtree(os.environ["SACCADE_CACHE"])
            assert folder.read("sub/a b.txt") == b"other"


def test_many_files_of_a_folder_are_listed_and_not_asked_for(
    folder: RemoteFolder, proxy: FaultProxy
) -> None:
    again = pickle.loads(pickle.dumps(folder))
    for name in ["big.bin", "empty", "im_2.txt", "im_10.txt", *map(str, range(40))]:
        assert (name in again) == (not name.isdigit())
    assert len([path for path, _, _ in proxy.log if path == "/robots"]) == 2, "listings"


@pytest.mark.parametrize(
    ("name", "module"), [("fsspec", remote_stores), ("requests", remote_transfer)]
)
def test_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, module: ModuleType
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("copy", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    with pytest.raises(ConfigError, match=rf"{name}.*pip install 'saccade\[remote\]'"):
        spec.loader.exec_module(copy)


def test_a_missing_package_of_one_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(protocol: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", lacking)
    with pytest.raises(ConfigError, match=r"s3:// needs .*s3fs.*pip install 'saccade\[remote\]'"):
        open_folder("s3://robots/set")
