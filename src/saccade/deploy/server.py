"""A policy behind a websocket, in openpi's protocol (``protocol.py``).

Each client costs one connection and at most one message in memory; the policy runs in a thread
of its own, one observation at a time. A client that sends nonsense gets a sentence, one that
sends too much, hangs or vanishes loses its connection; none of them is noticed by the others.
Web pages are refused: a browser would let any page talk to a server on its own machine.
"""

import asyncio
import http
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from saccade.deploy.preparation import Preparation
from saccade.deploy.protocol import Gripper, metadata_of, observation_of, to_wire
from saccade.deploy.runner import Actor, checked_chunk
from saccade.deploy.wire import pack, unpack
from saccade.errors import ConfigError, SaccadeError

HEALTH = "/healthz"
LOG = logging.getLogger(__name__)
QUIET = logging.getLogger(f"{__name__}.websockets")  # says a page of every client that vanishes
QUIET.setLevel(logging.CRITICAL)
PATIENT = 20  # times ``timeout`` that a client may say nothing: simulators load for minutes


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where to listen, and how much a client may cost.

    Args:
        host: 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in. There are no
            passwords: whoever reaches the port may ask.
        port: 0 lets the system choose.
        most_bytes: of one message.
        most_clients: at the same time; more are told to come back.
        timeout: seconds that a client may take to connect, to answer a ping and to read.
        gripper: what answers mean: unit is 1 open 0 closed; libero -1 open 1 closed, which is
            what openpi's own LIBERO client executes.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    most_bytes: int = 32_000_000
    most_clients: int = 16
    timeout: float = 30.0
    gripper: Gripper = "unit"

    def __post_init__(self) -> None:
        if not (0 <= self.port < 65536 and self.most_bytes > 0 and self.most_clients > 0):
            raise ConfigError(
                f"port {self.port}, {self.most_bytes} bytes and {self.most_clients} clients cannot "
                "be served; give a port below 65536 and sizes above 0"
            )
        if not 0 < self.timeout < float("inf"):
            raise ConfigError(f"timeout is {self.timeout}; give seconds above 0")


class PolicyServer:
    """Answers clients until it is told to stop.

    Args:
        actor: what answers observations.
        config: where, and limits.
    """

    def __init__(self, actor: Actor, config: ServeConfig) -> None:
        self.actor, self.config = actor, config
        self.preparation = Preparation(actor.contract)
        self.clients = 0
        self._metadata = pack(metadata_of(actor.contract, config.gripper))
        self._policy = ThreadPoolExecutor(1, "policy")  # one observation at a time

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until ``stop`` is set; ``ready`` is told the port.

        Raises:
            ConfigError: the port cannot be had.
        """
        timeout = self.config.timeout
        try:
            server = await serve(
                self._serve,
                self.config.host,
                self.config.port,
                process_request=self._admit,
                origins=[None],
                logger=QUIET,
                compression=None,  # pictures hardly shrink, and a small message cannot grow
                max_size=self.config.most_bytes,
                max_queue=1,
                open_timeout=timeout,
                ping_interval=timeout,
                ping_timeout=timeout,
                close_timeout=min(timeout, 5.0),
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {self.config.host}:{self.config.port} ({error}); give another "
                "--port or --host"
            ) from error
        async with server:
            ready(_port(server))
            await stop.wait()
        await asyncio.get_running_loop().run_in_executor(None, self._policy.shutdown)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer health checks, and turn clients away where there are too many."""
        if request.path == HEALTH:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self.clients >= self.config.most_clients:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        if self.clients >= self.config.most_clients:  # several came at once
            await connection.close(1013, "too many clients")
            return
        self.clients += 1
        try:
            await self._talk(connection)
        except (ConnectionClosed, TimeoutError):
            pass  # the client left, or was too slow: its business
        except Exception:
            LOG.exception("a connection ended by an error of ours")
        finally:
            self.clients -= 1

    async def _talk(self, connection: ServerConnection) -> None:
        """Send the metadata, then answer requests in turn."""
        timeout, before = self.config.timeout, None
        await asyncio.wait_for(connection.send(self._metadata), timeout)
        while True:
            message = await asyncio.wait_for(connection.recv(), PATIENT * timeout)
            began = time.perf_counter()
            answer = await self._answer(message, before)
            await asyncio.wait_for(connection.send(answer), timeout)
            before = 1000 * (time.perf_counter() - began)

    async def _answer(self, message: str | bytes, before: float | None) -> bytes | str:
        """Return an answer, or the sentence that says why there is none."""
        try:
            return await self._infer(message, before)
        except SaccadeError as error:
            return f"error[{error.exit_code}]: {error}"
        except Exception as error:
            LOG.exception("the policy failed")
            return (
                f"error[1]: the policy failed ({type(error).__name__}); the server's log says why"
            )

    async def _infer(self, message: str | bytes, before: float | None) -> bytes:
        if isinstance(message, str):
            raise ConfigError("the message is a text, expected packed bytes (msgpack)")
        contract, loop = self.actor.contract, asyncio.get_running_loop()
        observation, seed = await asyncio.to_thread(
            lambda: observation_of(unpack(message), self.preparation)
        )
        queued = time.perf_counter()
        began, chunk, ended = await loop.run_in_executor(
            self._policy,
            lambda: (time.perf_counter(), self.actor.act(observation, seed), time.perf_counter()),
        )
        actions = to_wire(
            checked_chunk(chunk, contract, contract.chunk), contract, self.config.gripper
        )
        timing = {"infer_ms": 1000 * (ended - began), "queue_ms": 1000 * (began - queued)}
        if before is not None:
            timing["prev_total_ms"] = before
        return pack({"actions": actions, "server_timing": timing})


def _port(server: Server) -> int:
    return next(iter(server.sockets)).getsockname()[1]
