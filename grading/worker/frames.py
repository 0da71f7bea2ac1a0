"""Messages between the grader and a worker: a JSON header and raw arrays. Reading one runs nothing that it contains.

On the wire: the length of the header (4 bytes), the header, then the bytes of each array in C order. The header's
`arrays` lists name, dtype and shape of each.
"""

import json
import math
import struct

import numpy as np

DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
LENGTH = struct.Struct("!I")
MAX_HEADER_BYTES = 1 << 18


class FrameError(Exception):
    """The bytes received are not a message, or a larger one than agreed."""


def encode(header, arrays):
    """Return a message as a list of buffers.

    Args:
        header: JSON-serialisable dict.
        arrays: `{name: array}` of dtypes in `DTYPES`, in any byte order.

    Raises:
        TypeError: an array has another dtype.
    """
    layout, buffers = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.name not in DTYPES:
            raise TypeError(f"{name} has dtype {array.dtype}, expected one of {', '.join(DTYPES)}")
        layout.append([name, array.dtype.name, list(array.shape)])
        buffers.append(memoryview(np.ascontiguousarray(array, array.dtype.name).reshape(-1).view(np.uint8)))
    text = json.dumps(header | {"arrays": layout}).encode()
    return [LENGTH.pack(len(text)) + text, *buffers]


def decode(read, max_bytes, max_header_bytes=MAX_HEADER_BYTES):
    """Return the header, a dict, and `{name: array}` of the next message.

    Args:
        read: returns a bytearray of so many bytes.
        max_bytes: limit of all arrays together.

    Raises:
        FrameError: the message is malformed or too large.
    """
    (length,) = LENGTH.unpack(read(LENGTH.size))
    if length > max_header_bytes:
        raise FrameError(f"a header of {length} bytes, expected at most {max_header_bytes}")
    try:
        header = json.loads(read(length))
        layout = [_checked(*entry) for entry in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FrameError(f"no valid header: {type(error).__name__}") from error
    sizes = [dtype.itemsize * math.prod(shape) for _, dtype, shape in layout]
    if sum(sizes) > max_bytes:
        raise FrameError(f"arrays of {sum(sizes)} bytes, expected at most {max_bytes}")
    arrays = {}
    for (name, dtype, shape), size in zip(layout, sizes, strict=True):
        array = np.frombuffer(read(size), np.uint8 if dtype.kind == "b" else dtype).reshape(shape)
        arrays[name] = array != 0 if dtype.kind == "b" else array  # a byte of 2 is not a valid bool
    return header, arrays


def _checked(name, dtype, shape):
    if not isinstance(name, str) or dtype not in DTYPES or not isinstance(shape, list) or len(shape) > 8:
        raise ValueError("an array needs a name, a known dtype and a shape")
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("a shape needs sizes of 0 or more")
    return name, np.dtype(dtype), tuple(shape)
