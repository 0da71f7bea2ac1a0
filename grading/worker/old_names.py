"""Names that NumPy and `collections` have dropped: `--lenient` restores them and records which were used."""

import collections
import collections.abc
import functools
import math
import re

import numpy as np

NUMPY = {
    "float": float, "int": int, "bool": bool, "object": object, "str": str, "long": int, "float_": np.float64,
    "Inf": np.inf, "Infinity": np.inf, "infty": np.inf, "PINF": np.inf, "NINF": -np.inf, "NaN": np.nan, "NAN": np.nan,
    "product": np.prod, "alltrue": np.all, "sometrue": np.any, "asscalar": lambda array: np.asarray(array).item(),
    "row_stack": np.vstack, "round_": np.round, "mat": np.asmatrix, "math": math,
}  # fmt: skip
NAMES = {f"numpy.{name}": value for name, value in NUMPY.items()}
NAMES |= {f"collections.{name}": getattr(collections.abc, name) for name in collections.abc.__all__}


def restore(used):
    """Restore the old names that are missing; add those that are asked for, as 'numpy.float', to the set `used`."""
    for module in (np, collections):
        module.__getattr__ = functools.partial(_get, module.__name__, getattr(module, "__getattr__", None), used)


def _get(module, modern, used, name):
    full = f"{module}.{name}"
    if full in NAMES:
        used.add(full)
        return NAMES[full]
    if modern:
        return modern(name)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def restores(error_text):
    """Return whether the text of an error names something that `restore` would restore."""
    found = re.findall(r"module '(\w+)' has no attribute '(\w+)'", error_text)
    found += [("numpy", name) for name in re.findall(r"`np\.(\w+)` was removed", error_text)]
    found += [pair[::-1] for pair in re.findall(r"cannot import name '(\w+)' from '(\w+)'", error_text)]
    return any(f"{module}.{name}" in NAMES for module, name in found)
