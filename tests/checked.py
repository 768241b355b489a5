"""Type checks at run time that cost less: most of our functions have no array to measure.

What jaxtyping does around a call (binding its arguments, remembering what each axis measures,
checking the arguments twice) takes 20 times as long as beartype alone, which checks all hints but
those of arrays as well. Decorating takes three times as long, for each of thousands of functions.
"""

import inspect
from functools import partial
from types import FunctionType
from typing import Any, ForwardRef, TypeVar, get_args

import jaxtyping
from beartype import beartype

whole = jaxtyping.jaxtyped


def checked(fn: Any = None, *, typechecker: Any) -> Any:
    """Decorate as jaxtyping does, or by beartype alone where no hint speaks of an array."""
    if fn is None:
        return partial(checked, typechecker=typechecker)
    plain = isinstance(fn, FunctionType) and not inspect.isgeneratorfunction(fn)
    if plain and not any(map(may_measure, fn.__annotations__.values())):
        return beartype(fn)
    return whole(fn, typechecker=typechecker)


def may_measure(hint: Any) -> bool:
    """Tell whether a hint has an array in it, or is still a name that may turn out to have one."""
    if isinstance(hint, str | ForwardRef | TypeVar):
        return True
    if isinstance(hint, list):  # the arguments of a Callable
        return any(map(may_measure, hint))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    unnamed = getattr(hint, "__value__", None) or getattr(hint, "__supertype__", None)
    return any(map(may_measure, (*get_args(hint), *([unnamed] if unnamed else []))))
