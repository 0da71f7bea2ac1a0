"""What can be asked of an implementation of the course's classes. Each operation runs on a submission's, in its
process, and on the reference's, in the grader's.

An operation takes `load(module, name)`, which returns a class; `p`, numbers and names; `a`, arrays; and fills
`out` with arrays as it goes, so that what came before an error is not lost with it. Weights are always
(out_features, in_features) here; how an implementation stores them is found from their shape.
"""

import time

import numpy as np

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


def find_linears(mlp):
    """Return the objects with `params` in `mlp`, in whichever attributes, lists or dicts it keeps them, in order."""
    found, seen = [], set()

    def visit(value, depth):
        if id(value) in seen or depth > 4:
            return
        seen.add(id(value))
        params = getattr(value, "params", None)
        if isinstance(params, dict) and {"weight", "bias"} <= set(params):
            found.append(value)
        elif isinstance(value, dict):
            for part in list(value.values()):
                visit(part, depth + 1)
        elif isinstance(value, list | tuple):
            for part in value:
                visit(part, depth + 1)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            visit(vars(value), depth)

    visit(mlp, 0)
    return found


def set_params(layer, weight, bias):
    """Write weight, (out, in), and bias, (out,), into the layer's own arrays, of whichever orientation."""
    own = layer.params
    own["weight"][...] = weight if is_out_in(layer, weight.shape) else weight.T
    own["bias"][...] = bias.reshape(np.shape(own["bias"]))


def is_out_in(layer, shape):
    return np.shape(layer.params["weight"]) == tuple(shape)


def gradients(layer, shape, out, suffix):
    """Note the layer's gradients under 'weight…' and 'bias…', in the orientation of `shape`."""
    weight, bias = numbers(layer.grads["weight"]), numbers(layer.grads["bias"])
    out[f"weight{suffix}"] = weight if is_out_in(layer, shape) else weight.T
    out[f"bias{suffix}"] = bias.reshape(-1) if bias.size == shape[0] else bias


def import_module(load, p, a, out):
    """Import a module and nothing more."""
    load.import_module(p["module"])


def linear_start(load, p, a, out):
    """LinearModule's parameters as they begin."""
    layer = load("modules", "LinearModule")(p["n_in"], p["n_out"])
    weight = numbers(layer.params["weight"])
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
            dx = layer.backward(a[f"dout{i}"])
            gradients(layer, shape, out, i)
            out[f"dx{i}"] = numbers(dx)


def activation(load, p, a, out):
    """LeakyReLUModule or SoftMaxModule on one batch after another."""
    layer = load("modules", p["name"])(*p["args"])
    for i in range(p["n_batches"]):
        out[f"out{i}"] = numbers(layer.forward(a[f"x{i}"]))
        if p["backward"]:
            out[f"dx{i}"] = numbers(layer.backward(a[f"dout{i}"]))


def cross_entropy(load, p, a, out):
    """CrossEntropyModule on one batch after another."""
    loss = load("modules", "CrossEntropyModule")()
    for i in range(p["n_batches"]):
        if p["forward"]:
            out[f"out{i}"] = numbers(loss.forward(a[f"x{i}"].copy(), a[f"y{i}"].copy()))
        if p["backward"]:
            out[f"dx{i}"] = numbers(loss.backward(a[f"x{i}"].copy(), a[f"y{i}"].copy()))


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
        out["out"] = numbers(loss)
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
    layers = find_linears(mlp)
    shapes = [a[f"weight{l}"].shape for l in range(len(p["n_hidden"]) + 1)]
    if len(layers) != len(shapes):
        raise TypeError(f"MLP holds {len(layers)} modules with params, expected {len(shapes)}")
    for l, layer in enumerate(layers):
        set_params(layer, a[f"weight{l}"], a[f"bias{l}"])
    return mlp, layers, shapes


def mlp_numpy(load, p, a, out):
    """The NumPy MLP: probabilities, and gradients for a given `dout` or, without one, for cross-entropy's."""
    mlp, layers, shapes = _numpy_mlp(load, p, a)
    out["out"] = probabilities = numbers(mlp.forward(a["x"]))
    if p["backward"]:
        if "dout" in a:
            dout = a["dout"]
        else:
            dout = load("modules", "CrossEntropyModule")().backward(probabilities.copy(), a["y"].copy())
        mlp.backward(dout)
        for l, layer in enumerate(layers):
            gradients(layer, shapes[l], out, l)


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
