"""The operations of `operations.py` on what is written in PyTorch: MLP, batch norm, ConvNet."""

import ast
import contextlib
import functools
import linecache
import traceback

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .operations import batches, make, match, numbers, parts_of, weights_in

GAMMA_WORDS, BETA_WORDS = ("gamma", "weight", "scale"), ("beta", "bias", "shift")


def settle():
    """Restore what PyTorch does by default, whatever a file of the submission has set as it was imported."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    if torch.are_deterministic_algorithms_enabled():  # the call below imports a compiler, which takes a second
        torch.use_deterministic_algorithms(False)


def find_parameters(module):
    """Return the parameters of a module, also of those in plain lists or attributes, which PyTorch overlooks."""
    tensors = parts_of(module, lambda value: isinstance(value, torch.Tensor))
    return [q for q in tensors if isinstance(q, nn.Parameter) or q.requires_grad]


def gamma_beta(module):
    """Return γ and β of a new module: by names that say it, else by their start values, 1 and 0, else in order.

    Also of tensors that are not registered, as `torch.ones(n, requires_grad=True)`.
    """
    own = {name: q for name, q in vars(module).items() if isinstance(q, torch.Tensor)}
    named = [(name.lower(), q) for name, q in (*module.named_parameters(), *own.items()) if q.requires_grad]
    if len(named) != 2:
        raise TypeError(f"it has {len(named)} parameters ({', '.join(n for n, _ in named)}), expected gamma and beta")
    (first_name, first), (second_name, second) = named

    def says(name, words):
        return any(word in name for word in words)

    if says(first_name, GAMMA_WORDS) and says(second_name, BETA_WORDS):
        return first, second
    is_swapped = says(first_name, BETA_WORDS) and says(second_name, GAMMA_WORDS)
    return (second, first) if is_swapped or bool((first == 0).all() and (second == 1).all()) else (first, second)


def backward(y, dout):
    """Do as `y.backward(dout)`, but for the third of a second in which that imports symbolic shapes."""
    (y * dout.reshape(y.shape)).sum().backward()


class TorchUnit:
    """An MLP, a batch norm or the manual function, in PyTorch, with the weights given, in float64 or as `p` says.

    Args:
        p: `args` and `named`, which it is made with; `float32`; `evaluation`; for the function `eps`, `passes_eps`,
            `is_instance`, and `needs`, which of x, γ and β require a gradient.
    """

    def __init__(self, load, target, p, a):
        self.p, self.dtype = p, torch.float32 if p.get("float32") else torch.float64
        self.needs = dict(zip(("x", "gamma", "beta"), p.get("needs", ()), strict=False))
        self.returned, found = None, load(target)
        self.shapes = {name: array.shape for name, array in a.items()}
        if target.endswith("Function"):
            self.params = dict.fromkeys(("gamma", "beta"))
            self.made = functools.partial(self._apply, found)
        else:
            self.made = make(found, p).train(not p.get("evaluation"))
            self.params = self._gamma_beta() if "gamma" in a else self._layers(a)
            if not p.get("float32"):
                self.made.to(self.dtype)
        self.set_weights(a)

    @torch.no_grad()
    def set_weights(self, a):
        """Set the weights given, which require a gradient also if the submission has frozen them."""
        for name, q in self.params.items():
            value = torch.from_numpy(a[name].copy()).to(self.dtype)
            if isinstance(self.made, functools.partial):
                self.params[name] = value.requires_grad_(self.needs.get(name, True))
                continue
            value = value.reshape(q.shape) if value.ndim < 2 and value.numel() == q.numel() else value
            value = torch.diag(value) if q.ndim == 2 and value.ndim == 1 else value  # a matrix for gamma
            value = value if value.shape == q.shape else value.T
            q.data = value.to(q.dtype if self.p.get("float32") else self.dtype).clone()  # float32 is asked for alone
            q.requires_grad_()

    def _gamma_beta(self):
        return dict(zip(("gamma", "beta"), gamma_beta(self.made), strict=True))

    def _layers(self, a):
        found = find_parameters(self.made)
        has, wanted = [tuple(q.shape) for q in found], [a[name].shape for name in weights_in(a)]
        weights, biases = match(has, wanted), match(has, [shape[:1] for shape in wanted])
        if None in weights:
            raise TypeError(
                f"MLP contains parameters of shapes {has}, expected weights of {wanted} or their transposes"
            )
        params = {f"weight{l}": found[place] for l, place in enumerate(weights)}
        return params | {f"bias{l}": found[place] for l, place in enumerate(biases) if place is not None}

    def _tensor(self, array, requires_grad=True):
        return torch.from_numpy(np.array(array)).to(self.dtype).requires_grad_(requires_grad)

    def _apply(self, function, x):
        unit = self

        class Watched(function):
            @staticmethod
            def backward(ctx, *grads):  # PyTorch keeps no gradient if one has a wrong shape
                result = function.backward(ctx, *grads)
                unit.returned = result if isinstance(result, tuple) else (result,)
                return result

        applied = Watched
        if self.p.get("is_instance"):
            for args, named in (((x.shape[1],), {"eps": self.p["eps"]}), ((x.shape[1],), {}), ((), {})):
                with contextlib.suppress(TypeError):
                    applied = function(*args, **named)  # the course makes one as it makes a module, or bare
                    break
        eps = [self.p["eps"]] if self.p.get("passes_eps", True) else []
        return applied.apply(x, *(q.clone() for q in self.params.values()), *eps)

    def forward(self, a):
        torch.manual_seed(0)  # for dropout
        self.x = self._tensor(a["x"], self.needs.get("x", True))
        with contextlib.nullcontext() if self.dtype == torch.float32 else Uncast():
            self.y = self.made(self.x.clone())
        return numbers(self.y)

    def backward(self, a, out):
        """Note all gradients; of the function those that its backward pass returned, also if PyTorch refuses one."""
        for q in self.params.values():
            q.grad = None
        named = {"x": self.x} | self.params
        try:
            backward(self.y, self._tensor(a["dout"], False))
        finally:
            if self.returned is not None:
                out["returned"] = np.array([float(grad is not None) for grad in self.returned])
            for i, (name, q) in enumerate(named.items()):
                grad = self.returned[i] if self.returned and q.grad is None and i < len(self.returned) else q.grad
                if grad is not None:
                    out[f"d{name}"] = self._turned(name, numbers(grad))

    def _turned(self, name, array):
        """Return an array in the shape in which it was given."""
        wanted = self.shapes.get(name, array.shape)
        if len(wanted) == 1 and array.size == wanted[0]:
            return array.reshape(-1)
        return array if array.shape == wanted or array.ndim != 2 else array.T

    def learn(self, x, labels, n_threads):
        """Note the gradients of the mean cross-entropy."""
        torch.set_num_threads(n_threads)
        self.made.train()
        for q in self.params.values():
            q.grad = None
        F.cross_entropy(self.made(self._tensor(x, False)), torch.from_numpy(labels).long()).backward()

    @torch.no_grad()
    def descend(self, rate):
        for q in self.params.values():
            if q.grad is not None:
                q -= rate * q.grad

    def weights(self):
        for name, q in self.params.items():
            yield name, self._turned(name, numbers(q))


class Uncast(TorchFunctionMode):
    """Leaves out conversions to another dtype, as `x.float()`, so that a network can be run in float64."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        values = (*args, *(kwargs or {}).values())
        name = getattr(function, "__name__", "")
        if name in ("float", "double") or (name in ("to", "type") and any(isinstance(v, torch.dtype) for v in values)):
            return args[0]
        return function(*args, **(kwargs or {}))


# ---- MLP ---------------------------------------------------------------------------------------


def parameters(load, target, p, a, out):
    """A module's registered parameters, sorted by shape: shapes, whether trainable, and how far their values spread.

    'is_registered' is 1 if PyTorch knows all parameters.
    """
    module = make(load(target), p)
    known = {id(q) for q in module.parameters()}
    out["is_registered"] = np.array(float(all(id(q) in known for q in find_parameters(module))))
    ordered = sorted(module.parameters(), key=lambda q: sorted((*q.shape, 1)[:2], reverse=True))
    out["shapes"] = np.array([sorted((*q.shape, 1)[:2], reverse=True) for q in ordered], float).reshape(-1, 2)
    out["trainable"] = np.array([float(q.requires_grad) for q in ordered])
    out["spread"] = np.array([float(q.max() - q.min()) if q.numel() else 0.0 for q in ordered])


class Traced(TorchFunctionMode):
    """Notes with each tensor the calls by which it came, whether a layer made them or the submission itself.

    Args:
        model: a ConvNet, whose convolutions and norms are numbered in the calls; dropout is left out of it.
    """

    def __init__(self, model=None):
        super().__init__()
        self.n_calls, self.is_convnet = 0, model is not None
        kinds = by_kind(model) if model else {"conv": (), "norm": ()}
        groups = kinds["conv"], [m.weight for m in kinds["norm"]]
        self.places = {id(q): f"#{i}" for group in groups for i, q in enumerate(group)}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, values = kwargs or {}, (*args, *(kwargs or {}).values())
        name = getattr(function, "__name__", "").rstrip("_")
        is_left_out = self.is_convnet and "dropout" in name
        result = values[0].clone() if is_left_out else function(*args, **kwargs)
        self.n_calls += 1
        name += next((self.places[id(v)] for v in values if id(v) in self.places), "")
        if "2d" in name:
            name += str([v for v in values if isinstance(v, int | tuple | list) and v is not False]).replace(" ", "")
        calls = frozenset([(self.n_calls, name)]).union(
            *(getattr(leaf, "calls", ()) for leaf in tree_leaves((args, kwargs)))
        )
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                leaf.calls = calls
        return result


def note_calls(out, y):
    text = " ".join(name for _, name in sorted(getattr(y, "calls", ())))
    out["calls"] = np.frombuffer(text.encode(), np.uint8)


def kind(load, target, p, a, out):
    """The output of a new network, the calls by which it comes, and the shapes of its matrices."""
    module = make(load(target), p)
    params = list(module.parameters())
    out["matrices"] = np.array([q.shape for q in params if q.ndim == 2], np.float64).reshape(-1, 2)
    with Traced():
        y = module(torch.from_numpy(a["x"]).to(params[0].dtype if params else torch.float32))
    out["out"] = numbers(y)
    note_calls(out, y)


# ---- Batch norm --------------------------------------------------------------------------------


def norm_parameters(load, target, p, a, out):
    """γ and β of a new batch-norm module, and whether both are registered and trainable."""
    module = make(load(target), p)
    found, registered = gamma_beta(module), {id(q) for q in module.parameters()}
    for name, q in zip(("gamma", "beta"), found, strict=True):
        out[name] = numbers(q).reshape(-1) if q.numel() == p["args"][0] else numbers(q)
    out["is_trainable"] = np.array(float(all(q.requires_grad and id(q) in registered for q in found)))


def refuses(load, target, p, a, out):
    """For each shape: 1 if a module refuses such an input by a `raise` or `assert` of its own, 0 if it accepts it.

    0.5 if PyTorch refuses it.
    """
    unit = TorchUnit(load, target, p, a)
    out["out"], found = unit.forward(a), []
    for shape in p["shapes"]:
        try:
            unit.made(torch.ones(shape, dtype=torch.float64))
            found.append(0.0)
        except Exception as error:
            found.append(1.0 if is_own(load, error) else 0.5)
    out["refused"] = np.array(found)


def is_own(load, error):
    """Return whether a `raise` or `assert` of the submission's was reached, whatever happened in it."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if load.is_own(frame.filename)]
    if not own:
        return False
    if "assert" in own[-1].line:  # of NumPy or PyTorch
        return True
    linecache.checkcache(own[-1].filename)
    nodes = ast.walk(ast.parse("".join(linecache.getlines(own[-1].filename))))
    statements = [node for node in nodes if isinstance(node, ast.Raise | ast.Assert)]
    return any(node.lineno <= own[-1].lineno <= node.end_lineno for node in statements)


# ---- ConvNet -----------------------------------------------------------------------------------


def by_kind(model):
    """Return the model's convolutions, batch norms and linear layers' tensors, each kind in order."""
    modules, params = list(model.modules()), list(model.parameters())
    return {
        "conv": [q for q in params if q.ndim == 4],
        "norm": [m for m in modules if isinstance(m, nn.modules.batchnorm._BatchNorm)],
        "linear": [q for q in params if q.ndim == 2],
        "bias": [m.bias for m in modules if isinstance(m, nn.Conv2d) and m.bias is not None],
        "linear_bias": [m.bias for m in modules if isinstance(m, nn.Linear) and m.bias is not None],
    }


@functools.cache  # a submission's ConvNet is filled several times: 0.1 s each
def drawn(kind, place, low, high, shape):
    """Return weights that depend on their kind, place and shape alone."""
    rng = np.random.default_rng([sum(map(ord, kind)), place])
    return torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32))


@torch.no_grad()
def convnet_of(load, target, p):
    """Return the ConvNet with weights that are the same whatever it calls them."""
    model = load(target)(*p["args"]).float().train(not p.get("evaluation"))
    kinds = by_kind(model)
    for norm in kinds["norm"]:
        norm.eps = 1e-5  # Table 1 does not say which
    tensors = [(name, q, (6 / q[0].numel()) ** 0.5) for name in ("conv", "linear") for q in kinds[name]]
    tensors = [(name, q, -bound, bound) for name, q, bound in tensors]
    for name, low, high in (
        ("weight", 0.5, 1.5),
        ("bias", -0.3, 0.3),
        ("running_mean", -0.3, 0.3),
        ("running_var", 0.5, 1.5),
    ):
        tensors += [(name, q, low, high) for m in kinds["norm"] if (q := getattr(m, name)) is not None]
    tensors += [(name, q, -0.2, 0.2) for name in ("linear_bias",) for q in kinds[name]]
    places = {}
    for name, q, low, high in tensors:
        q.copy_(drawn(name, places.setdefault(name, 0), low, high, tuple(q.shape)))
        places[name] += 1
    for q in kinds["bias"]:
        q.zero_()
    return model


def convnet_shapes(load, target, p, a, out):
    """Shapes of the ConvNet's convolutions, batch norms and linear layer, in order, and how many parameters it has."""
    model = load(target)(*p["args"])
    kinds = by_kind(model)
    out["convolutions"] = np.array([tuple(q.shape) for q in kinds["conv"]], np.float64).reshape(-1, 4)
    out["norms"] = np.array([m.num_features for m in kinds["norm"]], np.float64)
    out["linear"] = np.array([tuple(q.shape) for q in kinds["linear"]], np.float64).reshape(-1, 2)
    out["is_float32"] = np.array(float(all(q.dtype == torch.float32 for q in model.parameters())))
    out["count"] = np.array(float(sum(q.numel() for q in model.parameters()) - sum(q.numel() for q in kinds["bias"])))


def convnet(load, target, p, a, out):
    """The ConvNet without dropout: logits, the calls by which they come, and how many gradients are missing."""
    model = convnet_of(load, target, p)
    x = torch.from_numpy(a["x"].copy()).requires_grad_()
    with Traced(model):
        y = model(x)
    out["out"] = numbers(y)
    note_calls(out, y)
    backward(y, torch.ones_like(y))
    grads = [q.grad for q in (x, *model.parameters())]
    out["n_missing"] = np.array(float(sum(grad is None or not bool(grad.isfinite().all()) for grad in grads)))


def convnet_slopes(load, target, p, a, out):
    """In float64, along a direction of input and weights: the slope of Σ y · wave by the backward pass, and y on either
    side, `p["h"]` away."""
    model = convnet_of(load, target, p).double()
    x = torch.from_numpy(a["x"].copy()).double().requires_grad_()
    with Uncast(), Traced(model):
        y = model(x.clone())
        backward(y, wave(y.shape))
        tensors = [(q, wave(q.shape)) for q in (x, *model.parameters())]
        out["slope"] = np.array(sum(float((q.grad * d).sum()) for q, d in tensors if q.grad is not None))
        results = []
        with torch.no_grad():
            for step in (p["h"], -2 * p["h"]):
                for q, direction in tensors:
                    q += step * direction
                results.append(numbers(model(x)))
    out["out"] = np.array(results)


@functools.cache
def wave(shape):
    return torch.cos(1.7 * torch.arange(shape.numel(), dtype=torch.float64)).reshape(shape)


@torch.no_grad()
def convnet_rows(load, target, p, a, out):
    """Logits in evaluation: of all images, again, of the first half alone, and with other running statistics."""
    model, x = convnet_of(load, target, p | {"evaluation": True}), torch.from_numpy(a["x"].copy())
    out["out"], out["again"], out["half"] = (numbers(model(part)) for part in (x, x, x[: len(x) // 2]))
    for layer in by_kind(model)["norm"]:
        if layer.running_mean is not None:
            layer.running_mean += 1
    out["moved"] = numbers(model(x))


def convnet_train(load, target, p, a, out):
    """Train a ConvNet by Adam on the batches given, a new one if `is_first`; it is kept, also for prediction."""
    torch.set_num_threads(p["threads"])
    if p["is_first"]:
        torch.manual_seed(p["seed"])
        model = load(target)(3, 10)
        load.kept["convnet"] = model, torch.optim.Adam(model.parameters(), p["learning_rate"])
    model, optimizer = load.kept["convnet"]
    model.train()
    for x, labels in batches(p, a):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels).long()).backward()
        optimizer.step()


@torch.no_grad()
def convnet_predict(load, target, p, a, out):
    """Logits of the trained ConvNet, in evaluation, for images that were not there while it trained."""
    model = load.kept["convnet"][0].eval()
    x = torch.from_numpy(a["images"].astype(np.float32) - a["mean_image"])
    out["out"] = np.concatenate([numbers(model(part)) for part in x.split(250)])
