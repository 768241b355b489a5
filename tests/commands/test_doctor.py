from collections.abc import Callable

import pytest

from saccade.commands import doctor
from saccade.doctor import Check
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]


@pytest.mark.parametrize(("required", "code"), [(True, 1), (False, 0)])
def test_only_what_is_required_fails(
    saccade: Saccade, monkeypatch: pytest.MonkeyPatch, required: bool, code: int
) -> None:
    found = [
        Check("torch", True, "2.13", "never shown"),
        Check("gpu", False, "[none]", "buy one", required),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: found)
    done = saccade("doctor")
    assert done.code == code
    assert "[none]" in done.out
    assert "mend: buy one" in done.out
    assert "never shown" not in done.out
