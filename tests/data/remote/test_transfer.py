"""No broken transfer is ever taken for data; what may heal is tried again."""

import time
from typing import Any

import pytest

from saccade.data.files.folder import open_folder
from saccade.data.remote import transfer as remote_transfer
from saccade.data.remote.folder import RemoteFolder
from saccade.data.remote.twin import BLOCK
from saccade.errors import DataError
from tests.data.remote.conftest import BIG, PUBLIC, SIZE
from tests.fixtures.fault_proxy import Fault, FaultProxy


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


def test_a_connection_that_drips_is_broken_off(
    folder: RemoteFolder, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SACCADE_REMOTE_TIMEOUT", "0.2")
    monkeypatch.setattr(remote_transfer, "SLOWEST", 10**12)
    proxy.pause = 0.02
    assert bytes(folder.view("big.bin", 0, BLOCK)) == BIG[:BLOCK]
    assert len(proxy.asked("big.bin")) > 1


def test_an_unknown_host_is_said_at_once(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid")
    for root in ("https://no-such-host.invalid/set", "s3://robots/set"):
        begun = time.monotonic()
        with pytest.raises(DataError, match="its host is unknown; check spelling and network"):
            open_folder(root).names()
        assert time.monotonic() - begun < 5


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
