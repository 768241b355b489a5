"""The fixed initial states of LIBERO's tasks: ``init_files/<suite>/<task>.pruned_init``.

A file is what ``torch.save`` makes of a NumPy array ``[number, 1 + positions + velocities]``: a
zip with a pickle. It is read without running anything that the pickle asks for.
"""

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from saccade.data.files.archive import FAULTS
from saccade.data.files.pickles import loads
from saccade.errors import DataError

LARGEST = 1 << 26  # bytes of a pickle that is read; LIBERO's have 50 to 250 kilobytes
MEND = "install hf-libero again"


def load_initial_states(path: Path) -> Float64[np.ndarray, "k n"]:
    """Load the initial states of a task, one in each row.

    Raises:
        DataError: the file is missing or damaged, asks for more than an array, or holds another.
    """
    states = loads(_pickle(path), str(path))
    found = f"a {type(states).__name__}"
    if isinstance(states, np.ndarray):
        if states.dtype == np.float64 and states.ndim == 2 and np.isfinite(states).all():
            return states
        found = f"{states.dtype}{list(states.shape)}, or numbers that are not finite"
    raise DataError(
        f"{path} holds {found}, expected finite float64 numbers with a row for each initial state; "
        f"{MEND}"
    )


def _pickle(path: Path) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise DataError(f"{path} holds {len(names)} pickles, expected one; {MEND}")
            size = archive.getinfo(names[0]).file_size
            if size > LARGEST:
                raise DataError(f"{path} has a pickle of {size} bytes, over {LARGEST}; {MEND}")
            return archive.read(names[0])
    except DataError:
        raise
    except FAULTS as error:
        raise DataError(f"{path} cannot be read as torch saves arrays ({error}); {MEND}") from error
