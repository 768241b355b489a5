"""Errors that a user can mend, each with the exit code that scripts rely on.

A message is one sentence that names the file or field, what was found, what was expected and
what to do. The command line prints ``error[CODE]: message`` without a traceback (``--debug``
shows it). Programming mistakes stay ordinary exceptions.
"""


class SaccadeError(Exception):
    """Base of every error that is the input's fault, not the program's."""

    exit_code = 1


class ConfigError(SaccadeError, ValueError):
    """A wrong option, recipe or combination of settings."""

    exit_code = 2


class DataError(SaccadeError, ValueError):
    """A data set that is missing, damaged or not what the request needs."""

    exit_code = 3


class CheckpointError(SaccadeError, ValueError):
    """Weights or a training state that do not fit, or do not match their checksum."""

    exit_code = 4


class SpaceError(SaccadeError, OSError):
    """Not enough room on a disk."""

    exit_code = 5


class NumericError(SaccadeError, FloatingPointError):
    """A loss or gradient that is not finite."""

    exit_code = 6


class OutOfMemory(SaccadeError):
    """Less memory than the work needs, on a GPU or here."""

    exit_code = 7


class BusyError(SaccadeError):
    """Another process works in this folder."""

    exit_code = 8


class Stopped(SaccadeError):
    """A signal asked the run to end; its state was saved first."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # 75 after SIGTERM: resume me; 130 after Ctrl-C


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, of CUDA or of torch's allocator is about memory."""
    words = ("out of memory", "can't allocate memory")
    about = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return about or isinstance(error, MemoryError)
