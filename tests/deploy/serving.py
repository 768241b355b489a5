"""A server in a thread, and what tests of both ends say to it by hand."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import numpy as np
from websockets.sync.client import ClientConnection, connect

from saccade.deploy.preparation import Preparation
from saccade.deploy.runner import Actor, LocalActor
from saccade.deploy.server import PolicyServer, ServeConfig
from saccade.types import Observation
from tests.deploy.toy import STATE, Toy, ToyConfig, frames


@contextmanager
def served(actor: Actor | None = None, **options: Any) -> Iterator[str]:
    """Serve an actor (a toy) while the block runs; yield the address."""
    config = ServeConfig(**{"port": 0, **options})
    server = PolicyServer(actor or LocalActor(Toy(ToyConfig())), config)
    stop, ports, known = asyncio.Event(), list[int](), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def ready(port: int) -> None:
        ports.append(port)
        loops.append(asyncio.get_running_loop())
        known.set()

    thread = threading.Thread(target=lambda: asyncio.run(server.run(stop, ready)), daemon=True)
    thread.start()
    assert known.wait(10), "the server does not start"
    try:
        yield f"ws://127.0.0.1:{ports[0]}"
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive(), "the server does not stop"


def call(url: str, **options: Any) -> ClientConnection:
    """Connect, as any client would."""
    return connect(url, compression=None, proxy=None, max_size=None, **options)


def packed(message: Any) -> bytes:
    """Pack by nothing of ours: openpi's layout, written once more."""

    def encode(value: np.ndarray) -> dict[bytes, Any]:
        fields = (True, value.tobytes(), value.dtype.str, list(value.shape))
        return dict(zip((b"__ndarray__", b"data", b"dtype", b"shape"), fields, strict=True))

    data = msgpack.packb(message, default=encode)
    assert data is not None
    return data


def unpacked(data: bytes | str) -> Any:
    """Unpack by nothing of ours."""
    assert isinstance(data, bytes), data

    def decode(value: dict[Any, Any]) -> Any:
        if b"__ndarray__" not in value:
            return value
        return np.frombuffer(value[b"data"], value[b"dtype"]).reshape(value[b"shape"])

    return msgpack.unpackb(data, object_hook=decode)


def observed(text: str = "open it", **state: float) -> Observation:
    """Return what the toy sees of its scene."""
    prepare = Preparation(Toy(ToyConfig()).contract)
    return prepare.observation([prepare.moment(frames, STATE | state)], text)


def asked(text: str = "open it") -> dict[str, Any]:
    """Return the same as a request with openpi's names."""
    seen = observed()
    pictures = seen["video"][0, 0].permute(0, 2, 3, 1).numpy()
    return {
        "observation/image": pictures[0],
        "observation/wrist_image": pictures[1],
        "observation/state": seen["state"][0, 0].numpy(),
        "prompt": text,
    }
