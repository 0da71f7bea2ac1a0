"""Messages between grader and child: a JSON header and raw arrays. Reading one runs nothing that it holds.

The header goes over a `multiprocessing.connection.Connection` by itself, then the bytes of each array, C order. Its
`arrays` lists `[name, dtype, shape]` of each.
"""

import json
import math

import numpy as np

DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
MAX_HEADER_BYTES = 1 << 18
MAX_ARRAYS = 200


class FrameError(Exception):
    """What came is no message, or larger than agreed."""


def send(connection, header, arrays):
    """Send a message.

    Args:
        header: JSON-serialisable dict.
        arrays: `{name: array}` of dtypes in `DTYPES`.
    """
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    connection.send_bytes(json.dumps(header | {"arrays": listed}).encode())
    for array in arrays.values():
        connection.send_bytes(array.reshape(-1).view(np.uint8))


def receive(connection, max_bytes):
    """Return header, a dict, and `{name: array}` of the next message.

    Args:
        max_bytes: of all arrays together.

    Raises:
        EOFError: the other end is gone.
        FrameError: anything but a message of at most `max_bytes`.
    """
    raw = _bytes(connection, MAX_HEADER_BYTES)
    try:
        header = json.loads(raw)
        layout = [_checked(*entry) for entry in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FrameError(f"no header: {type(error).__name__}: {str(error)[:200]}") from error
    n_bytes = [dtype.itemsize * math.prod(shape) for _, dtype, shape in layout]
    if len(layout) > MAX_ARRAYS or sum(n_bytes) > max_bytes:
        raise FrameError(
            f"{len(layout)} arrays of {sum(n_bytes)} bytes, expected at most {MAX_ARRAYS} of {max_bytes} bytes"
        )
    arrays = {}
    for (name, dtype, shape), n in zip(layout, n_bytes, strict=True):
        raw = _bytes(connection, n)
        if len(raw) != n:
            raise FrameError(f"an array of {len(raw)} bytes, expected {n}")
        array = np.frombuffer(raw, np.uint8 if dtype.kind == "b" else dtype).reshape(shape)
        arrays[name] = array != 0 if dtype.kind == "b" else array  # a byte of 2 is no bool
    return header, arrays


def _checked(name, dtype, shape):
    if not isinstance(name, str) or dtype not in DTYPES or not isinstance(shape, list) or len(shape) > 8:
        raise ValueError("an array without a name, a known dtype and a shape")
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("a shape that is none")
    return name, np.dtype(dtype), tuple(shape)


def _bytes(connection, max_bytes):
    try:
        return connection.recv_bytes(max_bytes)
    except OSError as error:
        if str(error) == "bad message length":  # and not the other end's death in the middle of one
            raise FrameError(f"a message of more than {max_bytes} bytes") from error
        raise
