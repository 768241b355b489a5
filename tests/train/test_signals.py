import signal

import pytest

from saccade.errors import Stopped
from saccade.train.signals import stopping


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [
        (signal.SIGTERM, 75, "SIGTERM"),
        (signal.SIGUSR1, 75, "SIGUSR1"),
        (signal.SIGINT, 130, "Ctrl-C"),
    ],
)
def test_a_signal_stops_at_once_and_handlers_return(number: int, code: int, name: str) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=f"{name} came; nothing is lost") as caught, stopping():
        signal.raise_signal(number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) is before


def test_what_is_deferred_comes_to_its_end_first() -> None:
    done: list[int] = []

    def work() -> None:
        with stopping() as stop, stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            done.append(stop.number)
            stop.state = "all is saved"

    with pytest.raises(Stopped, match="all is saved"):
        work()
    assert done == [signal.SIGTERM]


def test_an_error_is_not_hidden_by_a_signal() -> None:
    def work() -> None:
        with stopping() as stop, stop.deferred():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        work()
