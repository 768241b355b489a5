"""``saccade serve`` answers until a signal comes, and says what is wrong before it listens."""

import os
import signal
import socket
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from saccade.commands import serve
from saccade.deploy.client import RemoteActor
from saccade.deploy.runner import LocalActor
from saccade.errors import CheckpointError, ConfigError
from tests.deploy.serving import observed
from tests.deploy.toy import CONTRACT, ToyConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with an exported policy. Read only."""
    folder, config = tmp_path_factory.mktemp("run"), ToyConfig(noise=1.0)
    config.build().save_pretrained(folder / "policy", config)
    return folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serves_until_a_signal_comes(
    run: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answers = []

    def ask_and_signal() -> None:
        try:
            with RemoteActor(f"ws://127.0.0.1:{port}", patience=20.0) as actor:
                answers.append(actor.act(observed(), (1, 2)))
                os.kill(os.getpid(), number)  # while a client is there
        finally:
            if not answers:
                os.kill(os.getpid(), signal.SIGINT)

    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    thread = Thread(target=ask_and_signal)
    thread.start()
    assert serve.main([str(run), "--port", str(port), "--device", "cpu"]) == code
    thread.join()
    (answer,) = answers
    np.testing.assert_array_equal(answer, LocalActor(run / "policy").act(observed(), (1, 2)))
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert capsys.readouterr().out == (
        f"serving contract {CONTRACT.digest()} on ws://127.0.0.1:{port}, cpu\n"
        f"health: http://127.0.0.1:{port}/healthz\n"
    )


def test_what_cannot_be_served_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        serve.main([str(tmp_path)])
    for device in ("tpu", *(() if torch.cuda.is_available() else ("cuda",))):
        with pytest.raises(ConfigError, match=f"no device '{device}' here; give --device cpu"):
            serve.main([str(run), "--device", device])
    with pytest.raises(ConfigError, match="give a port below 65536"):
        serve.main([str(run), "--port", "99999"])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port} "):
            serve.main([str(run), "--port", str(port), "--device", "cpu"])
        assert signal.getsignal(signal.SIGINT) is before


def test_sizes_are_read_as_people_write_them() -> None:
    read = {"32MB": 32_000_000, "1.5 k": 1500, "2GB": 2 * 10**9, "700": 700, "7B": 7, "1m": 10**6}
    assert {text: serve.size_of(text) for text in read} == read
    for text in ("", "MB", "-1MB", "1TB", "many"):
        with pytest.raises(ConfigError, match="expected a size such as 32MB"):
            serve.size_of(text)
