"""Archives come out whole or not at all, and nothing in them is written elsewhere."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from saccade.data.files import archive as module
from saccade.data.files.archive import extract
from saccade.errors import DataError

FILES = {
    "demo/raw/traj_group0/traj0/lang.txt": b"put the corn in the pot\n",
    "demo/raw/traj_group0/traj0/images0/im_0.jpg": np.random.default_rng(0).bytes(200_000),
    "demo/empty.txt": b"",
    "top.json": b"{}" * 500,
}
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2")


def pack(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of a kind that its suffix says; names that end with / are folders."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)
        return path
    mode = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[path.suffix]
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size, info.type = len(data), tarfile.DIRTYPE if name.endswith("/") else b"0"
            packed.addfile(info, io.BytesIO(data))
    return path


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_packed_comes_out(tmp_path: Path, suffix: str) -> None:
    path = pack(tmp_path / f"a{suffix}", {**FILES, "demo/bare/": b""})
    assert extract(path, tmp_path / "new" / "out") == 4
    assert content(tmp_path / "new" / "out") == FILES
    assert (tmp_path / "new" / "out" / "demo" / "bare").is_dir()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out"], "no pieces are left"


def test_what_tar_itself_writes(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    path = tmp_path / "a.tgz"
    subprocess.run(["tar", "czf", path, "-C", tmp_path / "in", "."], check=True)  # names: ./demo
    extract(path, tmp_path / "out")
    assert content(tmp_path / "out") == FILES


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:evil", "a/.."]
)
def test_members_that_climb_out(tmp_path: Path, suffix: str, name: str) -> None:
    path = pack(tmp_path / f"a{suffix}", {"good": b"1", name: b"2"})
    with pytest.raises(DataError, match=r"a\.\S+ is refused: its member .* outside"):
        extract(path, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "deep" / "out").exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("second", ["demo", "demo/a", "demo/a/b", "demo//a", "./demo/a"])
def test_members_over_others(tmp_path: Path, suffix: str, second: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # of zipfile
        if suffix == ".zip":
            with zipfile.ZipFile(path, "w") as packed:
                packed.writestr("demo/a", b"1")
                packed.writestr(second, b"2")
        else:
            pack_twice(path, second)
    with pytest.raises(DataError, match=f"its member '{second}' would lie over another"):
        extract(path, tmp_path / "out")


def pack_twice(path: Path, second: str) -> None:
    with tarfile.open(path, "w") as packed:
        for name in ("demo/a", second):
            info = tarfile.TarInfo(name)
            info.size = 1
            packed.addfile(info, io.BytesIO(b"x"))


KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.parametrize("kind", [*KINDS, tarfile.CONTTYPE + b"", tarfile.GNUTYPE_SPARSE])
def test_members_of_another_kind(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as packed:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        packed.addfile(info)
        file = tarfile.TarInfo("link/file")
        packed.addfile(file)
    with pytest.raises(DataError, match="'link"):
        extract(path, tmp_path / "out")
    assert not list(tmp_path.rglob("file"))


def test_a_link_in_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        packed.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="its member 'link' is no plain file"):
        extract(tmp_path / "a.zip", tmp_path / "out")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_off(tmp_path: Path, suffix: str) -> None:
    whole = pack(tmp_path / f"a{suffix}", FILES).read_bytes()
    path = tmp_path / f"b{suffix}"
    last = 10240 if suffix == ".tar" else 4  # a tar is padded with zeros
    for end in (0, 3, 100, 512, 700, 1536, len(whole) // 2, len(whole) - last):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"b\.\S+ .*(download|get) "):
            extract(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.xz"])
def test_flipped_bits(tmp_path: Path, suffix: str) -> None:
    whole = pack(tmp_path / f"a{suffix}", FILES).read_bytes()
    path = tmp_path / f"b{suffix}"
    for at in np.random.default_rng(0).integers(100, len(whole) - 500, 12).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(DataError, match=r"b\.\S+ "):
            extract(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"one": b"1" * 600, "two": b"2"})
    data = bytearray(path.read_bytes())
    data[512 + 1024] ^= 1  # the name of `two`
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.tar, one, .*no header of a member"):
        extract(path, tmp_path / "out")


def test_a_wrong_checksum_names_the_member(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:  # stored
        packed.writestr("demo/a.bin", b"0123456789")
    path.write_bytes(path.read_bytes().replace(b"0123456789", b"0123456780"))
    with pytest.raises(DataError, match=r"a\.zip, demo/a\.bin, cannot be unpacked \(Bad CRC"):
        extract(path, tmp_path / "out")


def test_a_size_that_is_not_true(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"a": bytes(50_000)})
    data = path.read_bytes()
    assert data.count((50_000).to_bytes(4, "little")) == 2
    for lie in (10, 60_000):
        path.write_bytes(data.replace((50_000).to_bytes(4, "little"), lie.to_bytes(4, "little")))
        with pytest.raises(DataError, match=r"a\.zip, a, cannot be unpacked"):
            extract(path, tmp_path / "out")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_bombs(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FREE", 1 << 20)
    path = pack(tmp_path / f"a{suffix}", {"zeros": bytes(30 << 20)})
    with pytest.raises(DataError, match="more than 200 times its size"):
        extract(path, tmp_path / "out")
    assert sum(p.stat().st_size for p in tmp_path.rglob("*")) < 20 << 20


def test_a_header_of_a_gigabyte(tmp_path: Path) -> None:
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(2048))
    with pytest.raises(DataError, match="has a header of 1073741824 bytes"):
        extract(tmp_path / "a.tar", tmp_path / "out")


def test_no_archive_and_no_room_for_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.zip cannot be unpacked"):
        extract(tmp_path / "none.zip", tmp_path / "out")
    with pytest.raises(DataError, match="cannot be unpacked"):
        extract(tmp_path, tmp_path / "out")
    (tmp_path / "text.zip").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"text\.zip cannot be unpacked"):
        extract(tmp_path / "text.zip", tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    path = pack(tmp_path / "a.zip", FILES)
    with pytest.raises(DataError, match="full exists already"):
        extract(path, tmp_path / "full")
    with pytest.raises(DataError, match="is empty"):
        extract(pack(tmp_path / "b.zip", {}), tmp_path / "out")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_a_run_that_was_ended_goes_on(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = pack(tmp_path / f"a{suffix}", FILES), tmp_path / "out"
    place = module._place

    def until(last: str) -> Callable[..., None]:
        def stopped(member: module.Member, target: Path) -> None:
            if member.name == last:
                raise KeyboardInterrupt
            place(member, target)

        return stopped

    monkeypatch.setattr(module, "_place", until("top.json"))
    with pytest.raises(KeyboardInterrupt):
        extract(path, out)
    assert not out.exists()
    (begun,) = tmp_path.glob(".out.part-*")
    picture, lang = (next(begun.rglob(name)) for name in ("im_0.jpg", "lang.txt"))
    kept = picture.stat().st_ino
    lang.write_bytes(bytes(lang.stat().st_size))  # as after a power cut
    (begun / "demo" / ".123.part").write_bytes(b"half")
    monkeypatch.setattr(module, "_place", place)
    extract(path, out)
    assert content(out) == FILES
    assert next(out.rglob("im_0.jpg")).stat().st_ino == kept, "what is whole is not written again"
    assert not begun.exists()


def test_a_killed_process_leaves_nothing_visible(tmp_path: Path) -> None:
    files = {f"{i:03}": os.urandom(1 << 16) for i in range(200)}
    path, out = pack(tmp_path / "a.zip", files), tmp_path / "out"
    code = (
        "import sys, os; from pathlib import Path; from saccade.data.files import archive\n"
        "place, n = archive._place, []\n"
        "def killed(*a):\n  place(*a); n.append(0)\n  if len(n) == 99: os.kill(os.getpid(), 9)\n"
        "archive._place = killed; archive.extract(*map(Path, sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, path, out], check=False)
    assert done.returncode == -9
    assert not out.exists()
    assert extract(path, out) == 200
    assert content(out) == files
