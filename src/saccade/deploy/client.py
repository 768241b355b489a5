"""A policy behind a network, to be used like one in this process."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from jaxtyping import Float32
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from saccade.deploy.protocol import (
    Dialect,
    contract_of,
    differences,
    error_of,
    from_wire,
    openpi_dialect,
    request_of,
)
from saccade.deploy.wire import numbers, pack, unpack
from saccade.errors import ConfigError, DataError
from saccade.types import Contract, Observation

LARGEST = 32_000_000  # bytes of an answer
BUSY = 503


class RemoteActor:
    """Asks a server: one of ours, or of openpi, whose contract the caller gives.

    Args:
        url: ``ws://HOST:PORT``.
        assumed: what the policy of a server that says nothing of itself was trained on, such as
            ``protocol.openpi_libero()``. A server of ours says it, and that is what counts.
        dialect: how a server that is not ours is asked; as openpi's LIBERO policies by default.
        timeout: seconds to wait for an answer.
        patience: seconds to try to connect, while the server starts or is full.
    """

    contract: Contract

    def __init__(
        self,
        url: str,
        assumed: Contract | None = None,
        dialect: Dialect | None = None,
        timeout: float = 30.0,
        patience: float = 60.0,
    ) -> None:
        self.url, self.timeout, self.patience = url, timeout, patience
        self.timing: dict[str, float] = {}  # what the server said of the last answer
        self._connection: ClientConnection | None = None
        self._stack = ExitStack()
        self._assumed, self._dialect = assumed, dialect
        self._open()

    def __enter__(self) -> "RemoteActor":
        """Return the actor, to be closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Leave the server."""
        self._connection = None
        self._stack.close()

    def act(self, observation: Observation, seed: Sequence[int] = ()) -> Float32[np.ndarray, "k a"]:
        """Ask the server; a lost connection is opened again, once.

        Raises:
            DataError: the observation is not as the contract says (nothing is sent then), or the
                server does not answer in time, or with something else.
            SaccadeError: what the server says, with its code.
        """
        told = tuple(seed) if self.ours else None
        message = pack(request_of(observation, told, self.contract, self.dialect))
        try:
            try:
                answer = self._exchange(message)
            except TimeoutError:
                raise
            except (ConnectionClosed, OSError):
                answer = self._exchange(message)  # the same seed gives the same answer
        except TimeoutError as error:
            raise DataError(
                f"{self.url} did not answer within {self.timeout:g} s; raise the timeout, or look "
                "at the server"
            ) from error
        except (ConnectionClosed, OSError) as error:
            raise DataError(
                f"{self.url} closed the connection twice ({error!s:.120}); look at the server"
            ) from error
        if isinstance(answer, str):
            raise error_of(answer)
        return self._actions(unpack(answer))

    def _exchange(self, message: bytes) -> bytes | str:
        """Send and receive. Whatever interrupts ends the connection: an answer that comes late
        would be taken for that to the next question.
        """
        if self._connection is None:
            self._open()
        assert self._connection is not None
        try:
            self._connection.send(message)
            return self._connection.recv(timeout=self.timeout)
        except BaseException:
            self.close()
            raise

    def _actions(self, answer: Any) -> Float32[np.ndarray, "k a"]:
        if not isinstance(answer, dict) or "actions" not in answer:
            found = sorted(answer) if isinstance(answer, dict) else type(answer).__name__
            raise DataError(f"{self.url} answered with {found!s:.120}, expected actions")
        size = len(self.contract.action_names)
        length = self.contract.chunk if self.ours else None
        found = numbers(answer["actions"], (length, size), f"actions of {self.url}")
        timing = answer.get("server_timing")
        self.timing = timing if isinstance(timing, dict) else {}
        return from_wire(found, self.contract, self.dialect.gripper)

    def _open(self) -> None:
        """Connect and read the metadata.

        Raises:
            DataError: nobody answers, or not in our protocol.
            ConfigError: the server's policy is another one than expected.
        """
        self.close()
        connection = self._connect()
        try:
            metadata = unpack(_bytes(connection.recv(timeout=self.timeout)))
            self._agree(metadata if isinstance(metadata, dict) else {})
        except BaseException as error:
            self.close()
            if isinstance(error, (ConnectionClosed, TimeoutError)):
                raise DataError(
                    f"{self.url} sends no metadata ({error!s:.120}); it is no policy server"
                ) from error
            raise
        self._connection = connection

    def _connect(self) -> ClientConnection:
        deadline, pause = time.monotonic() + self.patience, 0.1
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                return self._stack.enter_context(
                    connect(
                        self.url,
                        open_timeout=min(left, self.timeout),
                        # not the default of 20 s: openpi's server answers no ping while its
                        # policy works, and our patience with that is ``timeout``
                        ping_interval=self.timeout,
                        ping_timeout=self.timeout,
                        close_timeout=2.0,
                        compression=None,
                        max_size=LARGEST,
                        proxy=None,
                    )
                )
            except InvalidURI as error:
                raise ConfigError(f"{self.url!r} is no address; give ws://HOST:PORT") from error
            except (InvalidHandshake, OSError, EOFError) as error:
                status = error.response.status_code if isinstance(error, InvalidStatus) else BUSY
                if status != BUSY or time.monotonic() + pause > deadline:
                    raise DataError(
                        f"{self.url} does not let us in ({error!s:.120}); start the server, or "
                        "look at host and port"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _agree(self, metadata: dict[str, Any]) -> None:
        """Learn the server's contract, which stays the same when it is connected to again."""
        told, before = contract_of(metadata), getattr(self, "contract", None)
        if told is None:
            if self._assumed is None:
                raise ConfigError(
                    f"{self.url} does not say what its policy was trained on; give a contract, "
                    "such as that of protocol.openpi_libero()"
                )
            told = self._assumed, self._dialect or openpi_dialect(self._assumed)
            self.ours = False
        else:
            self.ours = True
        if before is not None and before.digest() != told[0].digest():
            raise ConfigError(
                f"{self.url} serves another policy than before; they differ in "
                f"{differences(before, told[0])}"
            )
        self.contract, self.dialect = told


def _bytes(message: str | bytes) -> bytes:
    if isinstance(message, str):
        raise error_of(message)
    return message
