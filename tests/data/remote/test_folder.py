"""Data in a bucket read like data on disk."""

import functools
import hashlib
import importlib.util
import json
import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import fsspec
import numpy as np
import pytest
import torch

from saccade.data.files.folder import open_folder
from saccade.data.formats import open_episodes
from saccade.data.remote import folder as remote
from saccade.data.remote import stores as remote_stores
from saccade.data.remote import transfer as remote_transfer
from saccade.data.remote.cache import twins
from saccade.data.remote.folder import RemoteFolder
from saccade.data.remote.twin import BLOCK
from saccade.errors import ConfigError, DataError
from tests.contracts import check_reader, digest
from tests.data.remote.conftest import BIG, PUBLIC, SIZE
from tests.fixtures import bridge, droid_raw, egodex, libero, rlds, video_folder
from tests.fixtures import lerobot as lerobot_fixture
from tests.fixtures.clouds import clouds
from tests.fixtures.fault_proxy import Fault, FaultProxy


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
    for address in ("s3://", "gs:///folder", "hf://"):
        with pytest.raises(ConfigError, match="names no bucket or host"):
            open_folder(address)
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
