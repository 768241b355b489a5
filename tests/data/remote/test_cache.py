"""What was fetched is kept, checked, shared and bounded."""

import errno
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from saccade.data.files.folder import open_folder
from saccade.data.remote import cache as remote_cache
from saccade.data.remote.cache import twins
from saccade.data.remote.folder import RemoteFolder
from saccade.data.remote.twin import BLOCK, ENTRY, HEAD, blocks_of
from saccade.errors import ConfigError, DataError, SpaceError
from tests.data.remote.conftest import BIG, PUBLIC, SIZE
from tests.fixtures.fault_proxy import FaultProxy


def twin_files(tmp_path: Path) -> list[Path]:
    records = (tmp_path / "cache" / "remote").glob("*/*.blocks")
    return [path.with_name(path.name.removesuffix(".blocks")) for path in records]


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
