"""Tests, which mirror ``saccade``. What they import is checked at run time as ``checked`` says."""

import jaxtyping

from tests.checked import checked

jaxtyping.jaxtyped = checked  # the name by which --jaxtyping-packages decorates
