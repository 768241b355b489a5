"""A policy behind a network is used like one here, whoever serves it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from websockets.sync.server import ServerConnection, serve

from saccade.deploy.client import RemoteActor
from saccade.deploy.protocol import Dialect, metadata_of, openpi_dialect, openpi_libero
from saccade.deploy.runner import Actor, LocalActor, Runner
from saccade.errors import ConfigError, DataError, NumericError, SaccadeError
from tests.deploy.serving import observed, packed, served, unpacked
from tests.deploy.toy import CONTRACT, STATE, Toy, ToyConfig, frames, picture


@contextmanager
def foreign(handler: Callable[[ServerConnection], None], metadata: Any = None) -> Iterator[str]:
    """Serve by nothing of ours: metadata, then whatever the handler does, once per connection."""

    def talk(connection: ServerConnection) -> None:
        connection.send(packed({"model": "pi0"} if metadata is None else metadata))
        handler(connection)

    quiet = logging.getLogger("tests.deploy.foreign")
    quiet.setLevel(logging.CRITICAL)
    with serve(talk, "127.0.0.1", 0, compression=None, logger=quiet) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def answering(*answers: Any) -> Callable[[ServerConnection], None]:
    """Answer the requests of a connection with these, then hang up."""

    def talk(connection: ServerConnection) -> None:
        for answer in answers:
            connection.recv()
            connection.send(answer if isinstance(answer, (str, bytes)) else packed(answer))

    return talk


def test_actions_are_those_of_the_policy_here() -> None:
    contract = replace(CONTRACT, history=2, stride=2)
    local = LocalActor(Toy(ToyConfig(noise=1.0), contract))
    for gripper in ("unit", "libero"):
        with served(local, gripper=gripper) as url, RemoteActor(url) as remote:
            assert isinstance(remote, Actor)
            assert remote.contract == contract
            found = []
            for actor in (local, remote):
                runner = Runner(actor, 2)
                runner.begin("open it", (1, 2))
                found.append([runner.act(frames, STATE | {"x": float(t)}) for t in range(6)])
            np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-6)
            if gripper == "unit":
                np.testing.assert_array_equal(found[0], found[1])
            assert remote.timing["infer_ms"] > 0


def test_what_does_not_fit_is_not_sent() -> None:
    with served() as url, RemoteActor(url) as remote:
        seen = observed()
        wrong = [
            seen | {"video": seen["video"][..., :-1]},
            seen | {"video": seen["video"].float()},
            seen | {"video": seen["video"][:, :, :1]},
            seen | {"state": seen["state"][..., :2]},
            seen | {"state": seen["state"] * torch.nan},
            seen | {"text": [""]},
        ]
        before = remote._connection
        for observation in wrong:
            with pytest.raises(DataError):
                remote.act(observation, (0,))  # type: ignore
        assert remote.timing == {}
        assert remote.act(seen, (0,)).shape == (4, 7)
        assert remote._connection is before


def test_errors_of_the_server_are_ours_and_the_connection_stays() -> None:
    logging.getLogger("saccade.deploy.server").setLevel(logging.CRITICAL)
    with served() as url, RemoteActor(url) as remote:
        before = remote._connection
        with pytest.raises(NumericError, match="the server refused: the policy answered with num"):
            remote.act(observed("nan"), (0,))
        with pytest.raises(SaccadeError, match=r"the policy failed \(RuntimeError\)"):
            remote.act(observed("raise"), (0,))
        with pytest.raises(DataError, match="prompt has 5000 letters"):
            remote.act(observed("a" * 5000), (0,))
        assert remote.act(observed(), (0,)).shape == (4, 7)
        assert remote._connection is before


def test_a_lost_connection_is_opened_again_once() -> None:
    chunk = np.ones((4, 7), np.float32)
    metadata = metadata_of(CONTRACT, "unit")
    answer = {"actions": chunk}
    with foreign(answering(answer), metadata) as url, RemoteActor(url) as remote:
        for _ in range(3):  # the server hangs up after every answer
            np.testing.assert_array_equal(remote.act(observed(), (0,)), chunk)
    lost = foreign(lambda connection: connection.close(), metadata)
    twice = pytest.raises(DataError, match="closed the connection twice")
    with lost as url, RemoteActor(url) as remote, twice:
        remote.act(observed(), (0,))


def test_a_server_that_comes_back_with_another_policy_is_refused() -> None:
    with served() as url, RemoteActor(url) as remote:
        port = int(url.rpartition(":")[2])
        remote.act(observed(), (0,))
    changed = LocalActor(Toy(ToyConfig(), replace(CONTRACT, fps=10.0)))
    refused = pytest.raises(ConfigError, match=r"another policy than before; .* fps 20\.0 and 10")
    with served(changed, port=port), refused:
        remote.act(observed(), (0,))


def test_a_late_answer_is_not_taken_for_the_next() -> None:
    slow, fast = np.zeros((4, 7), np.float32), np.ones((4, 7), np.float32)
    calls = []

    def talk(connection: ServerConnection) -> None:
        for message in connection:
            assert isinstance(message, bytes)
            calls.append(unpacked(message)["prompt"])
            late = calls[-1] == "late"
            time.sleep(0.5 if late else 0)
            connection.send(packed({"actions": slow if late else fast}))

    server = foreign(talk, metadata_of(CONTRACT, "unit"))
    with server as url, RemoteActor(url, timeout=0.2) as remote:
        with pytest.raises(DataError, match=r"did not answer within 0\.2 s"):
            remote.act(observed("late"), (0,))
        np.testing.assert_array_equal(remote.act(observed("next"), (0,)), fast)
    assert calls == ["late", "next"]  # a question that may be in work is not asked again


def test_a_server_of_openpi_is_asked_as_its_own_client_does() -> None:
    requests = []
    actions = np.arange(70, dtype=np.float64).reshape(10, 7) / 70

    def talk(connection: ServerConnection) -> None:
        for message in connection:
            assert isinstance(message, bytes)
            requests.append(unpacked(message))
            connection.send(packed({"actions": actions, "policy_timing": {"infer_ms": 3.0}}))

    contract = openpi_libero(chunk=5)
    state = {name: 0.1 * i for i, name in enumerate(contract.state_names)}
    views = {"agentview": picture(0, 256, 256), "wrist": picture(1, 256, 256)}
    with foreign(talk) as url, RemoteActor(url, contract) as remote:
        runner = Runner(remote)
        runner.begin("open it", (7,))
        found = [runner.act(views.__getitem__, state) for _ in range(6)]
    assert len(requests) == 2  # of ten commands five are executed
    np.testing.assert_allclose(found[4][:6], actions[4, :6], rtol=1e-6)
    assert found[4][6] == pytest.approx((1 - actions[4, 6]) / 2)  # -1 open, 1 closed
    assert set(requests[0]) == {
        *("observation/image", "observation/wrist_image", "observation/state", "prompt")
    }
    image = requests[0]["observation/image"]
    assert (image.shape, image.dtype) == ((224, 224, 3), np.uint8)
    assert image[100, -1].tolist() == [20, 20, 20]  # the dark edge, mirrored to the right
    assert abs(image[10, 100].astype(int) - [250, 10, 30]).max() <= 1  # red stays above
    np.testing.assert_allclose(requests[0]["observation/state"], list(state.values()), rtol=1e-6)
    assert requests[0]["prompt"] == "open it"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: no such norm", "norm; its own"),
        ({"action": [1]}, r"answered with \['action'\], expected actions"),
        (b"\xc1", "is not msgpack"),
        ({"actions": np.zeros((4, 6))}, r"has the shape \[4, 6\], expected \[any, 7\]"),
        ({"actions": np.zeros((0, 7))}, r"has the shape \[0, 7\]"),
        ({"actions": np.zeros(7)}, r"has the shape \[7\]"),
        ({"actions": np.full((4, 7), np.nan)}, "numbers that are not finite"),
        ({"actions": "left"}, "expected numbers"),
    ],
)
def test_answers_that_cannot_be_executed_are_refused(answer: Any, found: str) -> None:
    refused = pytest.raises(DataError, match=found)
    with foreign(answering(answer)) as url, RemoteActor(url, CONTRACT) as remote, refused:
        remote.act(observed(), (0,))


def test_a_server_says_what_its_policy_was_trained_on() -> None:
    true = metadata_of(CONTRACT, "unit")
    bent = dict(true["saccade/contract"])
    other = replace(CONTRACT, chunk=True)
    faults = [
        ({}, "does not say what its policy was trained on; give a contract"),
        (true | {"saccade/protocol": 2}, "speaks version 2 of the protocol, this saccade 1"),
        (true | {"saccade/digest": "0"}, "not the one that its digest names"),
        (true | {"saccade/gripper": "odd"}, "not the one that its digest names"),
        (true | {"saccade/contract": None}, "damaged"),
        (true | {"saccade/contract": bent | {"type": "saccade.types:Preprocessing"}}, "damaged"),
        (true | {"saccade/contract": bent | {"chunk": "many"}}, "damaged"),
        (true | {"saccade/contract": bent | {"crop": "round"}}, "damaged"),
        (true | {"saccade/contract": bent | {"odd": 1}}, "has no field 'odd'"),
        (metadata_of(other, "unit"), "damaged"),
        (["a list"], "does not say"),
    ]
    for metadata, found in faults:
        refused = pytest.raises(ConfigError, match=found)
        with foreign(lambda connection: None, metadata) as url, refused:
            RemoteActor(url)


def test_a_dialect_may_be_given() -> None:
    requests = []

    def talk(connection: ServerConnection) -> None:
        requests.append(unpacked(connection.recv()))
        connection.send(packed({"actions": np.full((4, 7), 0.25)}))

    dialect = Dialect(pictures=("front", "hand"), state="joints", text="task", gripper="unit")
    with foreign(talk) as url, RemoteActor(url, CONTRACT, dialect) as remote:
        assert remote.act(observed(), (0,)).tolist() == [[0.25] * 7] * 4
    assert set(requests[0]) == {"front", "hand", "joints", "task"}
    many = openpi_dialect(replace(CONTRACT, cameras=("a", "b", "c")))
    assert many.pictures == ("observation/image", "observation/wrist_image", "observation/c")


def test_nobody_there_is_told_in_time() -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=r"ws://127\.0\.0\.1:9 does not let us in .* start the ser"):
        RemoteActor("ws://127.0.0.1:9", patience=0.3)
    assert time.monotonic() - began < 2
    with pytest.raises(ConfigError, match="is no address; give ws://HOST:PORT"):
        RemoteActor("somewhere", patience=0.3)


def test_a_server_that_starts_late_or_is_full_is_waited_for() -> None:
    with served(most_clients=1) as url:
        first = RemoteActor(url)
        with pytest.raises(DataError, match="503"):
            RemoteActor(url, patience=0.3)
        thread = Thread(target=lambda: (time.sleep(0.3), first.close()))
        thread.start()
        with RemoteActor(url, patience=10.0) as second:
            assert second.act(observed(), (0,)).shape == (4, 7)
        thread.join()
