"""Names that old NumPy had, and what they were: `--lenient` brings them back, and says which were used."""

import numpy as np

NAMES = {
    "float": float, "int": int, "bool": bool, "object": object, "str": str, "complex": complex, "long": int,
    "float_": np.float64, "complex_": np.complex128, "Inf": np.inf, "Infinity": np.inf, "infty": np.inf,
    "NaN": np.nan, "NAN": np.nan, "product": np.prod, "cumproduct": np.cumprod, "sometrue": np.any,
    "alltrue": np.all, "asfarray": np.asarray, "row_stack": np.vstack, "in1d": np.isin,
}  # fmt: skip


def bring_back(used):
    """Let NumPy have the old names again; those that are asked for are added to the list `used`."""
    modern = np.__getattr__

    def getattr_(name):
        if name not in NAMES:
            return modern(name)
        if name not in used:
            used.append(name)
        return NAMES[name]

    np.__getattr__ = getattr_
