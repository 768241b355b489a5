"""A server speaks openpi's protocol, and no client can harm another."""

import os
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Float32
from websockets.exceptions import ConnectionClosed, InvalidStatus

from saccade.deploy.runner import LocalActor
from saccade.deploy.server import ServeConfig
from saccade.errors import ConfigError
from saccade.types import Observation
from tests.deploy.serving import asked, call, observed, packed, served, unpacked
from tests.deploy.toy import CONTRACT, Toy, ToyConfig, frames


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of the toy that takes messages of 100 kB."""
    with served(most_bytes=100_000, timeout=2.0) as address:
        yield address


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("ws://").partition(":")
    return host, int(port)


EXPECTED = LocalActor(Toy(ToyConfig())).act(observed(), (0,))


def works(url: str) -> None:
    """Make sure that another client is served."""
    with call(url) as client:
        client.recv(timeout=5)
        client.send(packed(asked()))
        np.testing.assert_array_equal(unpacked(client.recv(timeout=5))["actions"], EXPECTED)


def test_a_client_that_knows_only_openpi_is_answered(url: str) -> None:
    with call(url) as client:
        metadata = unpacked(client.recv(timeout=5))
        assert metadata["saccade/protocol"] == 1
        assert metadata["saccade/digest"] == CONTRACT.digest()
        assert metadata["saccade/gripper"] == "unit"
        assert metadata["saccade/request"]["observation/state"] == "[3]: x, y, gripper"
        assert metadata["saccade/request"]["observation/wrist or observation/wrist_image"] == (
            "uint8 [16, 16, 3], upright"
        )
        for number in range(2):
            client.send(packed(asked()))
            answer = unpacked(client.recv(timeout=5))
            assert set(answer) == {"actions", "server_timing"}
            assert answer["actions"].dtype == np.float32
            np.testing.assert_array_equal(answer["actions"], EXPECTED)
            assert 0 < answer["server_timing"]["infer_ms"] < 5000
            assert ("prev_total_ms" in answer["server_timing"]) == (number == 1)


def test_the_same_can_be_said_in_other_ways(url: str) -> None:
    openpi = asked()
    named = {
        "observation/agentview": openpi["observation/image"],
        "observation/wrist": openpi["observation/wrist_image"][None],
        "observation/state": openpi["observation/state"].astype(float).tolist(),
        "prompt": openpi["prompt"],
    }
    raw = openpi | {
        "observation/image": frames("agentview"),
        "observation/wrist_image": frames("wrist"),
        "saccade/frames": "upright",
    }
    with call(url) as client:
        client.recv(timeout=5)
        for request in (named, raw):
            client.send(packed(request))
            np.testing.assert_array_equal(unpacked(client.recv(timeout=5))["actions"], EXPECTED)


def test_a_history_is_sent_as_an_axis() -> None:
    contract = replace(CONTRACT, history=2)
    request = asked()
    for key in ("observation/image", "observation/wrist_image", "observation/state"):
        request[key] = np.stack([np.zeros_like(request[key]), request[key]])
    with served(LocalActor(Toy(ToyConfig(), contract))) as url, call(url) as client:
        client.recv(timeout=5)
        client.send(packed(request))
        found = unpacked(client.recv(timeout=5))["actions"]
        np.testing.assert_allclose(found[:, :5], 2 * EXPECTED[:, :5], rtol=1e-6)
        client.send(packed(asked()))
        assert "observation/state has the shape [3], expected [2, 3]" in str(client.recv(timeout=5))
        client.send(packed(request | {"observation/image": asked()["observation/image"]}))
        assert "observation/image is uint8[16, 16, 3], expected" in str(client.recv(timeout=5))


def test_a_seed_decides_what_is_drawn() -> None:
    with served(LocalActor(Toy(ToyConfig(noise=1.0)))) as url, call(url) as client:
        client.recv(timeout=5)
        drawn = []
        for seed in ([1, 2], [1, 2], [1, 3], 5, np.array([5]), None, None):
            client.send(packed(asked() | ({} if seed is None else {"saccade/seed": seed})))
            drawn.append(unpacked(client.recv(timeout=5))["actions"].tolist())
        assert drawn[0] == drawn[1] != drawn[2]
        assert drawn[3] == drawn[4]
        assert drawn[5] != drawn[6]  # without one, each answer is drawn anew


def test_grippers_can_be_answered_as_robosuite_has_them() -> None:
    with served(gripper="libero") as url, call(url) as client:
        assert unpacked(client.recv(timeout=5))["saccade/gripper"] == "libero"
        client.send(packed(asked()))
        found = unpacked(client.recv(timeout=5))["actions"]
        np.testing.assert_array_equal(found[:, :6], EXPECTED[:, :6])
        np.testing.assert_array_equal(found[:, 6], 1 - 2 * EXPECTED[:, 6])


SMALL = np.zeros((8, 8, 3), np.uint8)
FAULTS = [
    ({"observation/image": SMALL}, "observation/image is uint8[8, 8, 3], expected prepared"),
    (
        {"observation/image": np.zeros((16, 16, 3), np.float32)},
        "is float32[1, 16, 16, 3], expected",
    ),
    ({"observation/image": [[1]]}, "observation/image is list, expected"),
    ({"observation/image": "a text"}, "observation/image is str, expected"),
    ({"saccade/frames": "upright"}, "expected upright frames, uint8[1, 24, 32, 3]"),
    ({"saccade/frames": 3}, "saccade/frames is 3, expected prepared or upright"),
    ({"observation/state": np.zeros(4)}, "state has the shape [1, 4], expected [1, 3]"),
    ({"observation/state": [0.0, np.nan, 0.0]}, "state holds numbers that are not finite"),
    ({"observation/state": None}, "observation/state is a list of object, expected numbers"),
    ({"observation/state": [[0.0], [0.0, 1.0]]}, "observation/state has rows of several lengths"),
    ({"observation/state": {}}, "expected numbers"),
    ({"observation/image": [[1], [2, 3]]}, "observation/image is list, expected prepared"),
    ({"observation/state": "abc"}, "expected numbers"),
    ({"prompt": ""}, "the instruction is ''; say what the robot is to do"),
    ({"prompt": ["open"]}, "say what the robot is to do"),
    ({"prompt": "a" * 5000}, "prompt has 5000 letters"),
    ({"observation/wrist": SMALL}, "has both observation/wrist and observation/wrist_image"),
    ({"observation/top": SMALL}, "has 'observation/top', which means nothing here"),
    ({"saccade/seed": [0.5]}, "saccade/seed is [0.5]"),
    ({"saccade/seed": list(range(17))}, "expected at most 16 integers"),
    ({"prompt": "raise"}, "error[1]: the policy failed (RuntimeError)"),
    ({"prompt": "nan"}, "error[6]: the policy answered with numbers that are not finite"),
]


def test_nonsense_gets_a_sentence_and_the_next_question_an_answer(url: str) -> None:
    with call(url) as client:
        client.recv(timeout=5)
        for change, sentence in FAULTS:
            client.send(packed(asked() | change))
            told = client.recv(timeout=5)
            assert isinstance(told, str)
            assert told.startswith("error[")
            assert sentence in told
        for key in ("observation/image", "observation/state", "prompt"):
            request = asked()
            del request[key]
            client.send(packed(request))
            assert "error[3]: the " in str(client.recv(timeout=5))
        rng = np.random.default_rng(0)
        for message in ("a text", b"", b"\x80", b"\x90", b"\xc1", *map(rng.bytes, range(1, 99))):
            client.send(message)
            assert str(client.recv(timeout=5)).startswith("error[")
        client.send(packed(asked()))
        np.testing.assert_array_equal(unpacked(client.recv(timeout=5))["actions"], EXPECTED)
    works(url)


def test_health_is_told_without_a_websocket(url: str) -> None:
    with urllib.request.urlopen(f"{url.replace('ws:', 'http:')}/healthz", timeout=5) as answer:
        assert (answer.status, answer.read()) == (200, b"OK\n")


def test_a_page_in_a_browser_is_refused(url: str) -> None:
    with pytest.raises(InvalidStatus, match="403"), call(url, origin="https://evil.example"):
        pass
    works(url)


def test_a_message_that_is_too_large_costs_its_sender_the_connection(url: str) -> None:
    with call(url) as client:
        client.recv(timeout=5)
        client.send(packed(asked()) + bytes(100_000))
        with pytest.raises(ConnectionClosed, match="1009"):
            client.recv(timeout=5)
    with call(url) as client:  # a gigabyte is announced, and not waited for
        client.recv(timeout=5)
        client.socket.sendall(b"\x82\xff" + (10**9).to_bytes(8, "big") + bytes(4))
        with pytest.raises(ConnectionClosed, match="1009"):
            client.recv(timeout=5)
    with call(url) as client:  # or in pieces that are small
        client.recv(timeout=5)
        with pytest.raises(ConnectionClosed):
            client.send(bytes(10_000) for _ in range(100_000))
    works(url)


def test_a_client_that_vanishes_or_hangs_costs_only_itself(url: str) -> None:
    host, port = address(url)
    left = [socket.create_connection((host, port)) for _ in range(5)]
    left[0].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")  # a handshake that never ends
    left[1].sendall(os.urandom(1000))
    left[2].close()
    with call(url) as client:
        client.recv(timeout=5)
        client.socket.sendall(b"\x82\xfe\x40\x00abcd" + bytes(100))  # half a message, and gone
        client.socket.close()
    with call(url) as client:
        client.recv(timeout=5)
        client.send(packed(asked()))
        client.socket.close()  # does not wait for the answer
    works(url)
    began = time.monotonic()
    left[0].settimeout(10)
    while left[0].recv(1000):  # until the server gives it up
        pass
    assert time.monotonic() - began < 8
    for each in left:
        each.close()
    works(url)


def test_a_client_that_answers_no_ping_is_dropped() -> None:
    with served(timeout=0.3, most_clients=1) as url:
        host, port = address(url)
        with socket.create_connection((host, port)) as silent:
            silent.sendall(
                f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                "Sec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            assert silent.recv(12) == b"HTTP/1.1 101"
            with pytest.raises(InvalidStatus, match="503"):  # there is room for one
                works(url)
            silent.settimeout(5)
            while silent.recv(4096):
                pass
        works(url)


class Slow(LocalActor):
    """Takes its time, and notices if two ask at once."""

    busy = threading.Lock()

    def act(self, observation: Observation, seed: Sequence[int]) -> Float32[np.ndarray, "k a"]:
        assert self.busy.acquire(blocking=False)
        try:
            time.sleep(0.05)
            return super().act(observation, seed)
        finally:
            self.busy.release()


def test_several_clients_are_answered_one_after_another() -> None:
    with served(Slow(Toy(ToyConfig()))) as url, ThreadPoolExecutor(4) as threads:
        began = time.monotonic()
        list(threads.map(works, [url] * 8))
        assert time.monotonic() - began > 0.4


def test_the_policy_is_not_interrupted_when_the_server_stops() -> None:
    with ExitStack() as stack:
        with served(Slow(Toy(ToyConfig()))) as url:
            client = stack.enter_context(call(url))
            client.recv(timeout=5)
            client.send(packed(asked()))
            while not Slow.busy.locked():
                time.sleep(0.001)
        with pytest.raises(ConnectionClosed, match="1001"):  # going away
            client.recv(timeout=5)
    assert not Slow.busy.locked()


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"port 70000, .* give a port below 65536"):
        ServeConfig(port=70000)
    with pytest.raises(ConfigError, match="timeout is 0"):
        ServeConfig(timeout=0.0)
