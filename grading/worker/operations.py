"""What can be asked of a class. Each operation computes, and compares nothing.

An operation takes `load(target)`, which returns a class; the target; `params`, numbers and names; `arrays`; and fills
`out` with arrays as it goes, so that what came before an error is not lost with it. Gradients are named by what they
are of, as 'dx' and 'dweight0'. Weights are always (out_features, in_features) here; how a submission stores them is
found from their shape.
"""

import collections
import contextlib
import copy
import difflib
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
    array = None
    with contextlib.suppress(ValueError, RuntimeError):  # arrays of several shapes
        array = np.array(value)
    if array is None or array.dtype.kind not in "biuf":
        parts = value if isinstance(value, list | tuple) else ()
        of = ", ".join(f"{type(part).__name__} of shape {np.shape(part)}" for part in parts if hasattr(part, "shape"))
        raise TypeError(f"got a {type(value).__name__}{f' ({of})' if of else ''}, expected an array of numbers")
    is_kept = array.dtype.kind == "f" and array.dtype.itemsize <= 8
    return array.astype(array.dtype.newbyteorder("=") if is_kept else np.float64)


def text(value):
    """Return a text as an array, `check.Answer.text` reads it."""
    return np.frombuffer(value.encode(errors="replace"), np.uint8)


def similar(name, names):
    """Return the one of `names` that is much like `name`, or an empty text."""
    short = {n.lower().removesuffix("module"): n for n in names}
    near = difflib.get_close_matches(name.lower().removesuffix("module"), short, 1, 0.75)
    return short[near[0]] if near else ""


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


def weights_in(arrays):
    """Return the names of the weights among arrays, one of each layer."""
    return [name for name in arrays if name.startswith("weight")]


def keys(layer):
    """Return the keys of weight and bias in `layer.params`: as asked for, or else by their shapes; None if missing."""
    params = getattr(layer, "params", None)
    arrays = params if isinstance(params, dict) else {}
    shapes = {key: value.shape for key, value in arrays.items() if isinstance(value, np.ndarray)}
    matrices = [key for key, shape in shapes.items() if len(shape) == 2 and min(shape) > 1]
    weight = "weight" if "weight" in shapes else next(iter(matrices), None)
    rows = [key for key, shape in shapes.items() if weight not in (None, key) and np.prod(shape) in shapes[weight]]
    return {"weight": weight, "bias": "bias" if "bias" in rows else next(iter(rows), None)}


def make(found, params):
    """Return an instance, and what is unusual in it, a sentence or an empty text.

    The last argument, the slope, is left out if the class does not take it; `forward` may have a similar name.
    """
    args, named = copy.deepcopy(params["args"]), params.get("named", {})
    with contextlib.suppress(ValueError, TypeError):
        inspect.signature(found).bind(*args[:-1], **named)
        try:
            inspect.signature(found).bind(*args, **named)
        except TypeError:
            args = args[:-1]
    made = found(*args, **named)
    near = similar("forward", [name for name in dir(made) if name != "forward"])
    unwritten = getattr(getattr(made, "forward", None), "__name__", "_forward_unimplemented")  # PyTorch's
    if unwritten != "_forward_unimplemented" or not near:
        return made, ""
    made.forward = getattr(made, near)
    return made, f"There is no method forward; found {near}, which the other checks call"


class NumpyUnit:
    """A layer, or an MLP of layers, in NumPy, with the weights given.

    Args:
        params: `args`, which it is made with; `is_out_in` if its shape does not tell how a weight is stored.

    Attributes:
        problem: what the grader tolerates in it, for the price of one check; a sentence.

    Raises:
        TypeError: it has no layers of these shapes.
    """

    def __init__(self, load, target, params, arrays):
        self.made, self.problem = make(load(target), params)
        wanted = [arrays[name].shape for name in weights_in(arrays)]
        found = parts_of(self.made, lambda value: keys(value)["weight"] is not None) if wanted else []
        shapes = [layer.params[keys(layer)["weight"]].shape for layer in found]
        places = match(shapes, wanted)
        if None in places:
            raise TypeError(f"found layers with weights of shapes {shapes}, expected {wanted} or their transposes")
        self.layers = [found[place] for place in places]
        self.keys = [keys(layer) for layer in self.layers]
        if target == "modules.LinearModule" and self.keys[0] != {"weight": "weight", "bias": "bias"}:
            names = ", ".join(map(repr, self.made.params))
            self.problem = f"LinearModule.params has the keys {names}, expected 'weight' and 'bias'"
        self.is_out_in = [params.get("is_out_in", shapes[i] == s) for i, s in zip(places, wanted, strict=True)]
        self.set_weights(arrays)

    def parameters(self):
        """Yield number and layer, 'weight' or 'bias', and the key of each parameter."""
        for l, (layer, names) in enumerate(zip(self.layers, self.keys, strict=True)):
            for name, key in names.items():
                if key is not None:
                    yield l, layer, name, key

    def set_weights(self, arrays):
        for l, layer, name, key in self.parameters():
            param, value = layer.params[key], arrays[f"{name}{l}"]
            param[...] = self.turned(value, l) if name == "weight" else value.reshape(param.shape)

    def turned(self, weight, l):
        """Return a weight of layer l as it is stored, or from there."""
        return weight if self.is_out_in[l] else weight.T

    def forward(self, arrays):
        out = self.made.forward(*(arrays[name].copy() for name in ("x", "y") if name in arrays))
        if isinstance(out, list | tuple):
            self.problem = "The output is a list or tuple, expected an array"
        out = numbers(out)
        return out.reshape(()) if "y" in arrays and out.size == 1 else out

    def backward(self, arrays, out):
        """Note all gradients in `out`; if an error ends it, those that were written by then."""
        before = [dict(getattr(layer, "grads", {})) for layer in self.layers]  # some make theirs in the first backward
        before = [{name: np.array(grad) for name, grad in grads.items()} for grads in before]
        try:
            given = (arrays[name].copy() for name in (("x", "y") if "y" in arrays else ("dout",)))
            dx = self.made.backward(*given)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to report
                self.note(out, before)
            raise
        self.note(out)
        out["dx"] = np.zeros(0) if dx is None else numbers(dx)

    def note(self, out, before=None):
        for l, layer, name, key in self.parameters():
            grad = layer.grads.get(key)
            if grad is None or (before and np.array_equal(grad, before[l].get(key))):
                continue
            grad, size = numbers(grad), layer.params[key].size
            if name == "weight":
                grad = self.turned(grad, l)
            out[f"d{name}{l}"] = grad.reshape(-1) if name == "bias" and grad.size == size else grad

    def descend(self, rate):
        for _, layer, _, key in self.parameters():
            param = layer.params[key]
            param -= rate * np.asarray(layer.grads[key]).reshape(param.shape)

    def weights(self):
        for l, layer, name, key in self.parameters():
            param = numbers(layer.params[key])
            yield f"{name}{l}", self.turned(param, l) if name == "weight" else param.reshape(-1)


def unit_of(load, target, params, arrays):
    """Return what runs the class `target`: a `NumpyUnit` or a `TorchUnit`, which have the same methods."""
    if target.startswith(("modules.", "mlp_numpy.")):
        return NumpyUnit(load, target, params, arrays)
    from .operations_torch import TorchUnit

    return TorchUnit(load, target, params, arrays)


def run(load, target, params, arrays, out):
    """Output and gradients.

    If there are arrays `before_x` and `before_dout` or `before_y`, after another batch; or, if `params` has
    `is_twin`, with another instance that runs that batch between forward and backward pass.

    Layers, or the function, on which the class is built are replaced if `params` has `substitutes`, their prefix.
    """
    with substituted(load, params.get("substitutes")):
        unit = unit_of(load, target, params, arrays)
        out["is_out_in"] = np.array(getattr(unit, "is_out_in", []), np.float64)
        out["problem"] = text(unit.problem)
        before, twin = {name.removeprefix("before_"): array for name, array in arrays.items() if "before" in name}, None
        if params.get("is_twin"):
            negated = {name: -arrays[name] if name in arrays else array for name, array in (arrays | before).items()}
            twin = unit_of(load, target, params, negated)
        elif before:
            unit.forward(before)
            unit.backward(before, {})
        if not params.get("backward_only"):
            try:
                out["out"] = unit.forward(arrays)
            except Exception:  # a backward pass may be right all the same
                with contextlib.suppress(Exception):
                    if params["backward"] and not before:
                        unit.backward(arrays, out)
                raise
            out["problem"] = text(unit.problem)
        if twin:
            twin.forward(before)
        if params["backward"]:
            unit.backward(arrays, out)
        if twin and isinstance(unit, NumpyUnit):
            twin.backward(before, {})
            unit.note(out)


def cases(load, target, params, arrays, out):
    """The output for each case of inputs and weights, which have a further first axis."""
    with substituted(load, params.get("substitutes")):
        ones = [{name: array[case] for name, array in arrays.items()} for case in range(len(arrays["x"]))]
        unit, results = unit_of(load, target, params, ones[0]), []
        for one in ones:
            unit.set_weights(one)
            results.append(unit.forward(one))
        out["out"] = np.array(results)


def steps(load, target, params, arrays, out):
    """Weights after gradient descent on squared errors, by one network or, if `is_fresh`, by a new one at each step."""
    with substituted(load, params.get("substitutes")):
        weights = {name: array for name, array in arrays.items() if name not in ("x", "y")}
        unit = None
        for x, y in zip(arrays["x"], arrays["y"], strict=True):
            if unit is None or params["is_fresh"]:
                unit = unit_of(load, target, params, weights)
            error = (unit.forward({"x": x}) - y) / len(x)
            unit.backward({"x": x, "dout": error}, {})
            unit.descend(params["learning_rate"])
            weights = weights | dict(unit.weights())
        out.update(unit.weights())


def start(load, target, params, arrays, out):
    """LinearModule's parameters as they begin."""
    layer, _ = make(load(target), params)
    for name, key in keys(layer).items():
        if key is None:
            raise TypeError(f"LinearModule.params has the keys {', '.join(map(repr, layer.params))}: no {name}")
        out[name] = numbers(layer.params[key])


def lines(load, target, params, arrays, out):
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
                place = f"{frame.f_code.co_filename.split('/')[-1]}, line {frame.f_lineno}"
                places[place] = places.get(place, 0) + 1
        return trace

    for n in params["sizes"]:
        batch = {name: array[:n] if name in ("x", "y", "dout") else array for name, array in arrays.items()}
        unit = unit_of(load, target, params, batch)
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
    out["place"] = text(max(places, key=places.get, default=""))


def train(load, target, params, arrays, out):
    """Weights of an MLP after gradient descent on CIFAR-10; in NumPy with the submission's own layers and loss."""
    unit = unit_of(load, target, params, arrays)
    loss = load("modules.CrossEntropyModule")() if isinstance(unit, NumpyUnit) else None
    for x, y in batches(params, arrays):
        if loss is None:
            unit.learn(x.reshape(len(x), -1), y, params["threads"])
        else:
            targets = np.eye(10, dtype=np.float32)[y]
            probabilities = unit.made.forward(x.reshape(len(x), -1))
            loss.forward(probabilities, targets)
            unit.made.backward(loss.backward(probabilities, targets))
        unit.descend(params["learning_rate"])
    out.update(unit.weights())


def batches(params, arrays):
    """Yield images less the mean image, and labels, of each step, from 8-bit images in the order of the steps."""
    for rows in np.arange(len(arrays["labels"])).reshape(-1, params["batch_size"]):
        yield arrays["images"][rows].astype(np.float32) - arrays["mean_image"], arrays["labels"][rows]
