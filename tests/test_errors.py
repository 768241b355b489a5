import pytest

from saccade import errors

CODES = {  # scripts and schedulers rely on these
    "ConfigError": 2,
    "DataError": 3,
    "CheckpointError": 4,
    "SpaceError": 5,
    "NumericError": 6,
    "OutOfMemory": 7,
    "BusyError": 8,
}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_each_error_has_its_exit_code(name: str, code: int) -> None:
    error = getattr(errors, name)("what, found, expected, mend")
    assert error.exit_code == code
    assert isinstance(error, errors.SaccadeError)
    assert str(error) == "what, found, expected, mend"


@pytest.mark.parametrize("code", [75, 130])
def test_a_stop_says_by_which_signal(code: int) -> None:
    assert errors.Stopped("saved", code).exit_code == code


def test_no_error_ends_as_success_or_shares_a_code() -> None:
    assert {cls.__name__ for cls in errors.SaccadeError.__subclasses__()} == {*CODES, "Stopped"}
    assert len({errors.SaccadeError.exit_code, *CODES.values()}) == len(CODES) + 1
    assert errors.SaccadeError.exit_code == 1


def test_standard_handlers_catch_them_too() -> None:
    assert issubclass(errors.DataError, ValueError)
    assert issubclass(errors.SpaceError, OSError)
    assert issubclass(errors.NumericError, FloatingPointError)
