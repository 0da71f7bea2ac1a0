"""What can be asked of an implementation of the course's classes. Each operation runs on a submission's, in its
process, and on the reference's, in the grader's.

An operation takes `load(module, name)`, which returns a class; `p`, numbers and names; `a`, arrays; and fills
`out` with arrays as it goes, so that what came before an error is not lost with it. Weights are always
(out_features, in_features) here; how an implementation stores them is found from their shape.
"""

import contextlib
import dis
import sys
import time
import types

import numpy as np

from .stand_ins import with_stand_ins

# ---- NumPy -------------------------------------------------------------------------------------


def numbers(value):
    """Return `value` as an array of numbers, its own.

    Raises:
        TypeError: it is something else.
    """
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    array = np.array(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"got a {type(value).__name__} (dtype {array.dtype}), expected an array of numbers")
    return array.astype(np.float64) if array.dtype.name not in ("float32", "float64", "float16") else array


def loss_number(value):
    """Return a loss as `numbers` does; one number in an array of any shape is that number."""
    array = numbers(value)
    return array.reshape(()) if array.size == 1 else array


def returned(dx):
    """Return what a backward pass returned as `numbers` does: an empty array where it returned nothing."""
    return np.zeros(0) if dx is None else numbers(dx)


def match(shapes, wanted):
    """Return, for each shape of `wanted`, the place of the first of `shapes` that fits and is not taken, or None.

    Axes may stand in either order, and axes of length 1 do not count. So weights fit in both orientations, and
    biases as (out,), (1, out) and (out, 1); in which order a network made its layers does not matter, as the
    checks' layers are of unequal sizes.
    """
    left = [sorted(n for n in shape if n != 1) for shape in shapes]
    places = []
    for shape in wanted:
        place = left.index(sorted(shape)) if sorted(shape) in left else None
        if place is not None:
            left[place] = None
        places.append(place)
    return places


def own_params(layer):
    """Return the layer's `params`.

    Raises:
        TypeError: weight or bias is not among them.
    """
    if not {"weight", "bias"} <= set(layer.params):
        keys = ", ".join(repr(key) for key in layer.params)
        raise TypeError(f"LinearModule.params has the keys {keys}, expected 'weight' and 'bias'")
    return layer.params


def parts_of(value, is_wanted):
    """Return those parts of an object that are wanted, in whichever attributes, lists or dicts it keeps them."""
    found, seen = [], set()

    def visit(value, depth):
        if id(value) in seen or depth > 10:
            return
        seen.add(id(value))
        if is_wanted(value):
            found.append(value)
        elif isinstance(value, dict | list | tuple):
            for part in list(value.values() if isinstance(value, dict) else value):
                visit(part, depth + 1)
        elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
            visit(vars(value), depth)

    visit(value, 0)
    return found


def _is_linear(value):
    params = getattr(value, "params", None)
    return isinstance(params, dict) and {"weight", "bias"} <= set(params)


def set_params(layer, weight, bias):
    """Write weight, (out, in), and bias, (out,), into the layer's own arrays, of whichever orientation."""
    own = own_params(layer)
    own["weight"][...] = weight if is_out_in(layer, weight.shape) else weight.T
    own["bias"][...] = bias.reshape(np.shape(own["bias"]))


def is_out_in(layer, shape):
    return np.shape(layer.params["weight"]) == tuple(shape)


@contextlib.contextmanager
def noted_gradients(layers, shapes, suffixes, out):
    """Note the layers' gradients under 'weight…' and 'bias…', in the orientation of `shapes`, once the block has run.

    Where an error ends the block, those that it has written by then.
    """
    # Some make their `grads` in the first backward pass.
    before = [{name: np.array(grad) for name, grad in getattr(layer, "grads", {}).items()} for layer in layers]

    def note(is_whole):
        for layer, shape, suffix, old in zip(layers, shapes, suffixes, before, strict=True):
            for name in ("weight", "bias"):
                grad = layer.grads.get(name)
                if grad is None or (not is_whole and np.array_equal(grad, old.get(name))):
                    continue
                grad = numbers(grad)
                if name == "bias":
                    grad = grad.reshape(-1) if grad.size == shape[0] else grad
                elif not is_out_in(layer, shape):
                    grad = grad.T
                out[f"{name}{suffix}"] = grad

    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to tell of
            note(is_whole=False)
        raise
    note(is_whole=True)


def is_own(error):
    """Return whether a `raise` or `assert` of the submission's made an error, and no library."""
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    code, module = last.tb_frame.f_code, last.tb_frame.f_globals.get("__name__", "").split(".")[0]
    is_library = module in {"torch", "numpy", *sys.stdlib_module_names}
    is_raised = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return is_raised and (not is_library or "/submission/" in code.co_filename)  # it may have a folder code/


def import_module(load, p, a, out):
    """Import a module and nothing more."""
    load.import_module(p["module"])


def linear_start(load, p, a, out):
    """LinearModule's parameters as they begin."""
    layer = load("modules", "LinearModule")(p["n_in"], p["n_out"])
    weight = numbers(own_params(layer)["weight"])
    out["weight"] = weight if weight.shape == (p["n_out"], p["n_in"]) else weight.T
    out["bias"] = numbers(layer.params["bias"]).reshape(-1)


def linear(load, p, a, out):
    """LinearModule on one batch after another, x0, x1, …"""
    shape = a["weight"].shape
    layer = load("modules", "LinearModule")(shape[1], shape[0])
    set_params(layer, a["weight"], a["bias"])
    for i in range(p["n_batches"]):
        out[f"out{i}"] = numbers(layer.forward(a[f"x{i}"]))
        if p["backward"]:
            with noted_gradients([layer], [shape], [i], out):
                dx = layer.backward(a[f"dout{i}"])
            out[f"dx{i}"] = returned(dx)


def activation(load, p, a, out):
    """LeakyReLUModule or SoftMaxModule on one batch after another."""
    layer = load("modules", p["name"])(*p["args"])
    for i in range(p["n_batches"]):
        out[f"out{i}"] = numbers(layer.forward(a[f"x{i}"]))
        if p["backward"]:
            out[f"dx{i}"] = returned(layer.backward(a[f"dout{i}"]))


def cross_entropy(load, p, a, out):
    """CrossEntropyModule on one batch after another."""
    loss = load("modules", "CrossEntropyModule")()
    for i in range(p["n_batches"]):
        if p["forward"]:
            out[f"out{i}"] = loss_number(loss.forward(a[f"x{i}"].copy(), a[f"y{i}"].copy()))
        if p["backward"]:
            out[f"dx{i}"] = returned(loss.backward(a[f"x{i}"].copy(), a[f"y{i}"].copy()))


def speed(load, p, a, out):
    """Forward and backward of one module over a large batch, drawn here, and the processor time that it took.

    Of what comes out, a weighted sum over the batch is handed back, which takes no time to travel.
    """
    rng = np.random.default_rng(p["seed"])
    x, dout = rng.normal(size=(2, p["n_batch"], 3))  # few classes, so that a Jacobian of each example costs little
    if p["name"] == "CrossEntropyModule":
        x, y = rng.uniform(0.1, 1, x.shape), np.eye(3)[rng.integers(3, size=len(x))]
        layer = load("modules", p["name"])()
        began = time.thread_time()
        loss, dx = layer.forward(x.copy(), y.copy()), layer.backward(x.copy(), y.copy())
        out["out"] = loss_number(loss)
    else:
        layer = load("modules", p["name"])(*p["args"])
        if p["name"] == "LinearModule":
            set_params(layer, rng.normal(size=(2, 3)), rng.normal(size=2))
            dout = dout[:, :2]
        began = time.thread_time()
        result = layer.forward(x.copy())
        dx = layer.backward(dout.copy())
        out["out"] = np.cos(np.arange(len(x))) @ numbers(result)
    out["seconds"] = np.array(time.thread_time() - began)
    out["dx"] = np.cos(np.arange(len(x))) @ numbers(dx)


def _numpy_mlp(load, p, a):
    mlp = load("mlp_numpy", "MLP")(p["n_inputs"], p["n_hidden"], p["n_classes"], p["neg_slope"])
    found = parts_of(mlp, _is_linear)
    has = [np.shape(layer.params["weight"]) for layer in found]
    shapes = [a[f"weight{l}"].shape for l in range(len(p["n_hidden"]) + 1)]
    places = match(has, shapes)
    if None in places:
        raise TypeError(f"MLP holds modules whose weights have the shapes {has}, expected {shapes} or their transposes")
    layers = [found[place] for place in places]
    for l, layer in enumerate(layers):
        set_params(layer, a[f"weight{l}"], a[f"bias{l}"])
    return mlp, layers, shapes


@with_stand_ins
def mlp_numpy(load, p, a, out):
    """The NumPy MLP: probabilities, and gradients for a given `dout` or, without one, for cross-entropy's."""
    mlp, layers, shapes = _numpy_mlp(load, p, a)
    out["out"] = probabilities = numbers(mlp.forward(a["x"]))
    if p["backward"]:
        if "dout" in a:
            dout = a["dout"]
        else:
            dout = load("modules", "CrossEntropyModule")().backward(probabilities.copy(), a["y"].copy())
        with noted_gradients(layers, shapes, range(len(layers)), out):
            mlp.backward(dout)


@with_stand_ins
def steps_numpy(load, p, a, out):
    """Weights of the NumPy MLP after plain gradient descent on the batches given."""
    mlp, layers, shapes = _numpy_mlp(load, p, a)
    loss = load("modules", "CrossEntropyModule")()
    for x, y in batches(p, a, one_hot=True):
        probabilities = mlp.forward(x)
        loss.forward(probabilities, y)
        mlp.backward(loss.backward(probabilities, y))
        for layer in layers:
            for name in ("weight", "bias"):
                param = layer.params[name]
                grad = np.asarray(layer.grads[name])
                param -= p["learning_rate"] * (grad.reshape(param.shape) if name == "bias" else grad)
    for l, layer in enumerate(layers):
        weight = numbers(layer.params["weight"])
        out[f"weight{l}"] = weight if is_out_in(layer, shapes[l]) else weight.T
        out[f"bias{l}"] = numbers(layer.params["bias"]).reshape(-1)


def batches(p, a, one_hot, flat=True):
    """Yield images and targets of each step: small ones as given, or those of `index` in 8-bit `images`."""
    if "index" not in a:
        for x, y in zip(a["x"], a["y"], strict=True):
            yield x.copy(), (y.copy() if one_hot else y.argmax(axis=1))
        return
    for rows in a["index"].reshape(-1, p["batch_size"]):
        x = a["images"][rows].astype(np.float32)
        x -= a["mean_image"]
        labels = a["labels"][rows]
        yield (x.reshape(len(x), -1) if flat else x), (np.eye(10, dtype=np.float32)[labels] if one_hot else labels)
