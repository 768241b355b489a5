"""A real S3 server on loopback, and a proxy in front of it that can break answers."""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from saccade.data.files.folder import open_folder
from saccade.data.remote import transfer as remote_transfer
from saccade.data.remote.cache import twins
from saccade.data.remote.folder import RemoteFolder
from saccade.data.remote.twin import BLOCK
from tests.fixtures.fault_proxy import FaultProxy, fault_proxy

SIZE = 5 * BLOCK + 12345
BIG = np.random.default_rng(0).bytes(SIZE)
TAG = f'"{hashlib.md5(BIG).hexdigest()}"'
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
    client.put_object(Bucket="robots", Key="set/big.bin", Body=BIG, **PUBLIC)
    client.put_object(Bucket="robots", Key="set/empty", Body=b"", **PUBLIC)
    client.put_object(Bucket="robots", Key="set/it is 100%.txt", Body=b"odd", **PUBLIC)
    yield client
    server.stop()


@pytest.fixture
def proxy(moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """All requests go through a proxy that can break them; cache and credentials are fresh."""
    if moto.head_object(Bucket="robots", Key="set/big.bin")["ETag"] != TAG:  # a test changed it
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
