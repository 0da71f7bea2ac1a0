"""Messages between grader and child: a JSON header and raw arrays. Reading one runs nothing that it holds.

A message is two lengths (8 bytes each, little-endian), the header, and the arrays' bytes one behind the
other, C order. The header's `arrays` lists `[name, dtype, shape]` of each.
"""

import json
import math
import struct

import numpy as np

DTYPES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
MAX_HEADER_BYTES = 1 << 18
MAX_ARRAYS = 200
LENGTHS = struct.Struct("<QQ")


class FrameError(Exception):
    """What came is no message, or larger than agreed."""


def write(file, header, arrays):
    """Write a message to a binary file and flush it.

    Args:
        file: open for bytes.
        header: JSON-serialisable dict.
        arrays: `{name: array}` of dtypes in `DTYPES`.
    """
    arrays = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    listed = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    head = json.dumps(header | {"arrays": listed}).encode()
    file.write(LENGTHS.pack(len(head), sum(array.nbytes for array in arrays.values())))
    file.write(head)
    for array in arrays.values():
        file.write(array.reshape(-1).view(np.uint8).data)
    file.flush()


def read(file, max_bytes):
    """Return header, a dict, and `{name: array}` of the next message.

    Args:
        file: open for bytes, buffered.
        max_bytes: of all arrays together.

    Raises:
        EOFError: the other end is gone.
        FrameError: anything but a message of at most `max_bytes`.
    """
    n_head, n_arrays = LENGTHS.unpack(_exactly(file, LENGTHS.size))
    if n_head > MAX_HEADER_BYTES or n_arrays > max_bytes:
        raise FrameError(f"a message of {n_head} + {n_arrays} bytes, expected at most {MAX_HEADER_BYTES} + {max_bytes}")
    try:
        header = json.loads(_exactly(file, n_head))
        listed = header.pop("arrays")
        if len(listed) > MAX_ARRAYS:
            raise ValueError(f"{len(listed)} arrays, expected at most {MAX_ARRAYS}")
        layout = [_checked(*entry) for entry in listed]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FrameError(f"no header: {type(error).__name__}: {str(error)[:200]}") from error
    if sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in layout) != n_arrays:
        raise FrameError("the arrays' shapes do not add up to the bytes announced")
    raw = _exactly(file, n_arrays)
    arrays, start = {}, 0
    for name, dtype, shape in layout:
        n = math.prod(shape)
        array = np.frombuffer(raw, np.uint8 if dtype.kind == "b" else dtype, n, start).reshape(shape)
        arrays[name] = array != 0 if dtype.kind == "b" else array  # a byte of 2 is no bool
        start += n * dtype.itemsize
    return header, arrays


def _checked(name, dtype, shape):
    if not isinstance(name, str) or dtype not in DTYPES or not isinstance(shape, list) or len(shape) > 8:
        raise ValueError("an array without a name, a known dtype and a shape")
    if not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
        raise ValueError("a shape that is none")
    return name, np.dtype(dtype), tuple(shape)


def _exactly(file, n):
    raw = bytearray(n)  # of an agreed length, so that a lying header cannot ask for more
    view = memoryview(raw)
    while view:
        got = file.readinto(view)
        if not got:
            raise EOFError("the other end is gone")
        view = view[got:]
    return raw
