"""What can be asked of a class. Each operation computes, and compares nothing.

An operation takes `load(target)`, which returns a class; the target; `p`, numbers and names; `a`, arrays; and fills
`out` with arrays as it goes, so that what came before an error is not lost with it. Gradients are named by what they
are of, as 'dx' and 'dweight0'. Weights are always (out_features, in_features) here; how a submission stores them is
found from their shape.
"""

import collections
import contextlib
import copy
import inspect
import sys
import types

import numpy as np

from .substitutes import substituted


def numbers(value):
    """Return `value` as an array of numbers, its own, in this machine's byte order.

    Raises:
        TypeError: it is something else.
    """
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    array = np.array(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"got a {type(value).__name__} (dtype {array.dtype}), expected an array of numbers")
    is_kept = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    return array.astype(array.dtype.newbyteorder("=") if is_kept else np.float64)


def parts_of(value, is_wanted):
    """Return those parts of an object that are wanted: search attributes and containers recursively."""
    found, seen = [], set()

    def visit(value, depth):
        if id(value) in seen or depth > 10:
            return
        seen.add(id(value))
        if is_wanted(value):
            found.append(value)
        elif isinstance(value, dict | list | tuple | set | collections.deque):
            for part in list(value.values() if isinstance(value, dict) else value):
                visit(part, depth + 1)
        elif not isinstance(value, type | types.ModuleType):
            slots = [name for c in type(value).__mro__ for name in getattr(c, "__slots__", ()) if hasattr(value, name)]
            for part in (*(getattr(value, name) for name in slots), *getattr(value, "__dict__", {}).values()):
                visit(part, depth + 1)

    visit(value, 0)
    return found


def match(shapes, wanted):
    """Return, for each shape of `wanted`, the place of the first of `shapes` that fits and is not taken, or None.

    Axes may be in either order, and axes of length 1 do not count: weights fit in both orientations, and biases as
    (out,), (1, out) and (out, 1). The layers of the checks are of unequal sizes.
    """
    left = [sorted(n for n in shape if n != 1) for shape in shapes]
    places = []
    for shape in wanted:
        place = left.index(sorted(shape)) if sorted(shape) in left else None
        if place is not None:
            left[place] = None
        places.append(place)
    return places


def weights_in(a):
    """Return the names of the weights among arrays, one of each layer."""
    return [name for name in a if name.startswith("weight")]


def is_linear(value):
    params = getattr(value, "params", None)
    return isinstance(params, dict) and {"weight", "bias"} <= set(params)


def make(found, p):
    """Return an instance; without the last argument, the slope, if the class does not take it."""
    args, named = copy.deepcopy(p["args"]), p.get("named", {})
    with contextlib.suppress(ValueError, TypeError):
        inspect.signature(found).bind(*args[:-1], **named)
        try:
            inspect.signature(found).bind(*args, **named)
        except TypeError:
            args = args[:-1]
    return found(*args, **named)


class NumpyUnit:
    """A layer, or an MLP of layers, in NumPy, with the weights given.

    Args:
        p: `args`, which it is made with; `is_out_in` if its shape does not tell how a weight is stored.

    Raises:
        TypeError: it has no layers of these shapes.
    """

    def __init__(self, load, target, p, a):
        self.made, wanted = make(load(target), p), [a[name].shape for name in weights_in(a)]
        found = parts_of(self.made, is_linear) if wanted else []
        if wanted and target == "modules.LinearModule" and not found:
            keys = ", ".join(map(repr, self.made.params))
            raise TypeError(f"LinearModule.params has the keys {keys}, expected 'weight' and 'bias'")
        shapes = [np.shape(layer.params["weight"]) for layer in found]
        places = match(shapes, wanted)
        if None in places:
            raise TypeError(f"found layers with weights of shapes {shapes}, expected {wanted} or their transposes")
        self.layers = [found[place] for place in places]
        self.is_out_in = [p.get("is_out_in", shapes[i] == shape) for i, shape in zip(places, wanted, strict=True)]
        self.set_weights(a)

    def set_weights(self, a):
        for l, layer in enumerate(self.layers):
            weight, bias = a[f"weight{l}"], a[f"bias{l}"]
            layer.params["weight"][...] = weight if self.is_out_in[l] else weight.T
            layer.params["bias"][...] = bias.reshape(np.shape(layer.params["bias"]))

    def forward(self, a):
        out = self.made.forward(*(a[name].copy() for name in ("x", "y") if name in a))
        self.is_list, out = isinstance(out, list | tuple), numbers(out)
        return out.reshape(()) if "y" in a and out.size == 1 else out

    def backward(self, a, out):
        """Note all gradients in `out`; if an error ends it, those that were written by then."""
        before = [dict(getattr(layer, "grads", {})) for layer in self.layers]  # some make theirs in the first backward
        before = [{name: np.array(grad) for name, grad in grads.items()} for grads in before]
        try:
            given = (a[name].copy() for name in (("x", "y") if "y" in a else ("dout",)))
            dx = self.made.backward(*given)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.note(out, before)
            raise
        self.note(out)
        out["dx"] = np.zeros(0) if dx is None else numbers(dx)

    def note(self, out, before=None):
        for l, layer in enumerate(self.layers):
            for name in ("weight", "bias"):
                grad = layer.grads.get(name)
                if grad is None or (before and np.array_equal(grad, before[l].get(name))):
                    continue
                grad = numbers(grad)
                is_bias, size = name == "bias", np.size(layer.params["bias"])
                turned = grad.reshape(-1) if is_bias and grad.size == size else grad
                out[f"d{name}{l}"] = turned if is_bias or self.is_out_in[l] else grad.T

    def descend(self, rate):
        for layer in self.layers:
            for name in ("weight", "bias"):
                param = layer.params[name]
                param -= rate * np.asarray(layer.grads[name]).reshape(param.shape)

    def weights(self):
        for l, layer in enumerate(self.layers):
            weight = numbers(layer.params["weight"])
            yield f"weight{l}", weight if self.is_out_in[l] else weight.T
            yield f"bias{l}", numbers(layer.params["bias"]).reshape(-1)


def unit_of(load, target, p, a):
    """Return what runs the class `target`: a `NumpyUnit` or a `TorchUnit`, which have the same methods."""
    if target.startswith(("modules.", "mlp_numpy.")):
        return NumpyUnit(load, target, p, a)
    from .operations_torch import TorchUnit

    return TorchUnit(load, target, p, a)


def run(load, target, p, a, out):
    """Output and gradients.

    If there are arrays `before_x` and `before_dout` or `before_y`, after another batch, and with another instance that
    runs this batch between forward and backward pass.

    Layers, or the function, on which the class is built are replaced if `p` has `substitutes`, their prefix.
    """
    with substituted(load, p.get("substitutes")):
        unit = unit_of(load, target, p, a)
        out["is_out_in"] = np.array(getattr(unit, "is_out_in", []), np.float64)
        before = {name.removeprefix("before_"): array for name, array in a.items() if name.startswith("before_")}
        if before:
            unit.forward(before)
            unit.backward(before, {})
            twin = unit_of(load, target, p, {name: -a[name] if name in a else b for name, b in (a | before).items()})
        if not p.get("backward_only"):
            try:
                out["out"] = unit.forward(a)
            except Exception:  # a backward pass may be right all the same
                with contextlib.suppress(Exception):
                    if p["backward"] and not before:
                        unit.backward(a, out)
                raise
            out["is_list"] = np.array(float(getattr(unit, "is_list", False)))
        if before:
            twin.forward(before)
        if p["backward"]:
            unit.backward(a, out)
        if before and isinstance(unit, NumpyUnit):
            twin.backward(before, {})
            unit.note(out)


def cases(load, target, p, a, out):
    """The output for each case of inputs and weights, which have a further first axis."""
    with substituted(load, p.get("substitutes")):
        ones = [{name: array[case] for name, array in a.items()} for case in range(len(a["x"]))]
        unit, results = unit_of(load, target, p, ones[0]), []
        for one in ones:
            unit.set_weights(one)
            results.append(unit.forward(one))
        out["out"] = np.array(results)


def steps(load, target, p, a, out):
    """Weights after gradient descent on squared errors, by one network or, if `is_fresh`, by a new one at each step."""
    with substituted(load, p.get("substitutes")):
        weights = {name: array for name, array in a.items() if name not in ("x", "y")}
        unit = None
        for x, y in zip(a["x"], a["y"], strict=True):
            if unit is None or p["is_fresh"]:
                unit = unit_of(load, target, p, weights)
            error = (unit.forward({"x": x}) - y) / len(x)
            unit.backward({"x": x, "dout": error}, {})
            unit.descend(p["learning_rate"])
            weights = dict(unit.weights())
        out.update(weights)


def start(load, target, p, a, out):
    """LinearModule's parameters as they begin."""
    layer = load(target)(*p["args"])
    out["weight"], out["bias"] = numbers(layer.params["weight"]), numbers(layer.params["bias"]).reshape(-1)


def lines(load, target, p, a, out):
    """How many lines of Python run, forward and backward, for the first n examples, for each n of `sizes`.

    'place' is the submission's line in which most of them ran for the last size, as text.
    """
    counts, places, before = [], {}, sys.gettrace()

    def trace(frame, event, _):
        if event == "line":
            counts[-1] += 1
            while frame and not load.is_own(frame.f_code.co_filename):
                frame = frame.f_back
            if frame:
                place = frame.f_code.co_filename, frame.f_lineno
                places[place] = places.get(place, 0) + 1
        return trace

    for n in p["sizes"]:
        batch = {name: array[:n] if name in ("x", "y", "dout") else array for name, array in a.items()}
        unit = unit_of(load, target, p, batch)
        counts.append(0)
        places.clear()
        sys.settrace(trace)
        try:
            unit.forward(batch)
            unit.backward(batch, {})
            if sys.gettrace() is not trace:
                raise RuntimeError("sys.settrace was called, so that lines cannot be counted")
        finally:
            sys.settrace(before)
    out["counts"] = np.array(counts, np.float64)
    if places:
        (file, line), _ = max(places.items(), key=lambda item: item[1])
        text = f"{file.replace(chr(92), '/').split('/')[-1]}, line {line}"
        out["place"] = np.frombuffer(text.encode(errors="replace"), np.uint8)


def train(load, target, p, a, out):
    """Weights of an MLP after gradient descent on CIFAR-10; in NumPy with the submission's own layers and loss."""
    unit = unit_of(load, target, p, a)
    loss = load("modules.CrossEntropyModule")() if isinstance(unit, NumpyUnit) else None
    for x, y in batches(p, a):
        if loss is None:
            unit.learn(x.reshape(len(x), -1), y, p["threads"])
        else:
            targets = np.eye(10, dtype=np.float32)[y]
            probabilities = unit.made.forward(x.reshape(len(x), -1))
            loss.forward(probabilities, targets)
            unit.made.backward(loss.backward(probabilities, targets))
        unit.descend(p["learning_rate"])
    out.update(unit.weights())


def batches(p, a):
    """Yield images less the mean image, and labels, of each step, from 8-bit images in the order of the steps."""
    for rows in np.arange(len(a["labels"])).reshape(-1, p["batch_size"]):
        yield a["images"][rows].astype(np.float32) - a["mean_image"], a["labels"][rows]
