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

from .operations import batches, make, match, numbers, parts_of, text, weights_in

BETA_WORDS = ("beta", "bias", "shift")
# How the parameters of a ConvNet's batch norms are drawn: lowest, highest.
NORM_RANGES = {"weight": (0.5, 1.5), "bias": (-0.3, 0.3), "running_mean": (-0.3, 0.3), "running_var": (0.5, 1.5)}


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


def built(load, target, params):
    """Return a module, and what is unusual in it; lazy layers have seen a batch, as they have no weights before."""
    module, problem = make(load(target), params)
    if any(nn.parameter.is_lazy(q) for q in module.parameters()):
        n = params["args"][0]
        module.eval()(torch.zeros((2, n, 32, 32) if target.endswith("ConvNet") else (2, n)))
    return module.train(not params.get("evaluation")), problem


def gamma_beta(module):
    """Return `{'gamma', 'beta'}` of a new module: in order, unless start value or name of the first one says it is β.

    Also of tensors that are not registered, as `torch.ones(n, requires_grad=True)`.
    """
    own = {name: q for name, q in vars(module).items() if isinstance(q, torch.Tensor)}
    named = [(name.lower(), q) for name, q in (*module.named_parameters(), *own.items()) if q.requires_grad]
    if len(named) != 2:
        raise TypeError(f"it has {len(named)} parameters ({', '.join(n for n, _ in named)}), expected gamma and beta")
    (first_name, first), (_, second) = named
    starts = [set(q.detach().flatten().tolist()) for q in (first, second)]
    if starts == [{0.0}, {1.0}] or (starts != [{1.0}, {0.0}] and any(word in first_name for word in BETA_WORDS)):
        first, second = second, first
    return {"gamma": first, "beta": second}


def backward(y, dout):
    """Do as `y.backward(dout)`, but for the third of a second in which that imports symbolic shapes."""
    (y * dout.reshape(y.shape)).sum().backward()


class TorchUnit:
    """An MLP, a batch norm or the manual function, in PyTorch, with the weights given, in float64 or as `params` says.

    Args:
        params: `args` and `named`, which it is made with; `float32`; `evaluation`; for the function `eps`,
            `passes_eps`, and `needs`, which of x, γ and β require a gradient.

    Attributes:
        problem: what the grader tolerates in it, for the price of one check; a sentence.
        tensors: γ and β, or weights and biases, by name.
    """

    def __init__(self, load, target, params, arrays):
        self.params, self.dtype = params, torch.float32 if params.get("float32") else torch.float64
        self.needs = dict(zip(("x", "gamma", "beta"), params.get("needs", ()), strict=False))
        self.returned, self.problem = None, ""
        self.shapes = {name: array.shape for name, array in arrays.items()}
        if target.endswith("Function"):
            self.tensors = dict.fromkeys(("gamma", "beta"))
            self.made = functools.partial(self._apply, load(target))
        else:
            self.made, self.problem = built(load, target, params)
            self.tensors = gamma_beta(self.made) if "gamma" in arrays else self._layers(arrays)
            if not params.get("float32"):
                self.made.to(self.dtype)
        self.set_weights(arrays)

    @torch.no_grad()
    def set_weights(self, arrays):
        """Set the weights given, which require a gradient also if the submission has frozen them."""
        for name, q in self.tensors.items():
            value = torch.from_numpy(arrays[name].copy()).to(self.dtype)
            if isinstance(self.made, functools.partial):
                self.tensors[name] = value.requires_grad_(self.needs.get(name, True))
                continue
            value = value.reshape(q.shape) if value.ndim < 2 and value.numel() == q.numel() else value
            value = torch.diag(value) if q.ndim == 2 and value.ndim == 1 else value  # a matrix for gamma
            value = value if value.shape == q.shape else value.T
            # A submission's own dtype is kept for float32, which is what it is asked for.
            q.data = value.to(q.dtype if self.params.get("float32") else self.dtype).clone()
            q.requires_grad_()

    def _layers(self, arrays):
        found, wanted = find_parameters(self.made), [arrays[name].shape for name in weights_in(arrays)]
        has = [tuple(q.shape) for q in found]
        weights, biases = match(has, wanted), match(has, [shape[:1] for shape in wanted])
        if None in weights:
            raise TypeError(f"MLP has parameters of shapes {has}, expected weights of {wanted} or their transposes")
        tensors = {f"weight{l}": found[place] for l, place in enumerate(weights)}
        return tensors | {f"bias{l}": found[place] for l, place in enumerate(biases) if place is not None}

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

        eps = [self.params["eps"]] if self.params.get("passes_eps", True) else []
        return Watched.apply(x, *(q.clone() for q in self.tensors.values()), *eps)

    def forward(self, arrays):
        torch.manual_seed(0)  # for dropout
        self.x = self._tensor(arrays["x"], self.needs.get("x", True))
        with contextlib.nullcontext() if self.dtype == torch.float32 else Uncast():
            self.y = self.made(self.x.clone())
        if isinstance(self.y, tuple | list) and self.y:
            self.problem = f"The output is a {type(self.y).__name__}, expected the logits alone"
            self.y = self.y[0]
        return numbers(self.y)

    def backward(self, arrays, out):
        """Note all gradients; of the function those that its backward pass returned, also if PyTorch refuses one."""
        for q in self.tensors.values():
            q.grad = None
        named = {"x": self.x} | self.tensors
        try:
            backward(self.y, self._tensor(arrays["dout"], False))
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
        for q in self.tensors.values():
            q.grad = None
        F.cross_entropy(self.made(self._tensor(x, False)), torch.from_numpy(labels).long()).backward()

    @torch.no_grad()
    def descend(self, rate):
        for q in self.tensors.values():
            if q.grad is not None:
                q -= rate * q.grad

    def weights(self):
        for name, q in self.tensors.items():
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


def parameters(load, target, params, arrays, out):
    """A module's registered parameters, sorted by shape: shapes, whether trainable, and how far their values spread.

    'is_registered' is 1 if PyTorch knows all parameters.
    """
    module, _ = built(load, target, params)
    known = {id(q) for q in module.parameters()}
    out["is_registered"] = np.array(float(all(id(q) in known for q in find_parameters(module))))
    pairs = [(sorted((*q.shape, 1)[:2], reverse=True), q) for q in module.parameters()]
    shapes, tensors = zip(*sorted(pairs, key=lambda pair: pair[0]), strict=True) if pairs else ((), ())
    out["shapes"] = np.array(shapes, float).reshape(-1, 2)
    out["trainable"] = np.array([float(q.requires_grad) for q in tensors])
    out["spread"] = np.array([float(q.max() - q.min()) if q.numel() else 0.0 for q in tensors])


class Traced(TorchFunctionMode):
    """Notes with each tensor the calls by which it came, whether a layer made them or the submission itself.

    Dropout is noted and left out.

    Args:
        model: a ConvNet, whose convolutions, norms and linear layers are numbered in the calls; None for an MLP.

    Attributes:
        used: ids of all that a function was called with.
    """

    def __init__(self, model=None):
        super().__init__()
        kinds = by_kind(model) if model else {"conv": (), "norm": (), "linear": ()}
        groups = kinds["conv"], [m.weight for m in kinds["norm"]], kinds["linear"]
        self.places = {id(q): f"#{i}" for group in groups for i, q in enumerate(group)}
        self.n_calls, self.used = 0, set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, values = kwargs or {}, (*args, *(kwargs or {}).values())
        name = getattr(function, "__name__", "").rstrip("_")
        result = values[0].clone() if "dropout" in name else function(*args, **kwargs)
        self.n_calls += 1
        name += next((self.places[id(v)] for v in values if id(v) in self.places), "")
        if "2d" in name:
            name += str([v for v in values if isinstance(v, int | tuple | list) and v is not False]).replace(" ", "")
        leaves = tree_leaves((args, kwargs))
        self.used.update(map(id, leaves))
        calls = frozenset([(self.n_calls, name)]).union(*(getattr(leaf, "calls", ()) for leaf in leaves))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                leaf.calls = calls
        return result


def note_calls(out, y):
    out["calls"] = text(" ".join(name for _, name in sorted(getattr(y, "calls", ()))))


def calls(load, target, params, arrays, out):
    """The functions of PyTorch by which the output of a new MLP comes."""
    module, _ = built(load, target, params)
    with Traced():
        note_calls(out, module(torch.from_numpy(arrays["x"]).to(next(module.parameters()).dtype)))


# ---- Batch norm --------------------------------------------------------------------------------


def norm_parameters(load, target, params, arrays, out):
    """γ and β of a new batch-norm module, and whether both are registered and trainable."""
    module, _ = built(load, target, params)
    found, registered = gamma_beta(module), {id(q) for q in module.parameters()}
    for name, q in found.items():
        out[name] = numbers(q).reshape(-1) if q.numel() == params["args"][0] else numbers(q)
    out["is_trainable"] = np.array(float(all(q.requires_grad and id(q) in registered for q in found.values())))


def refuses(load, target, params, arrays, out):
    """For each shape: 1 if a module refuses such an input by a `raise` or `assert` of its own, 0 if it accepts it.

    0.5 if PyTorch refuses it.
    """
    unit = TorchUnit(load, target, params, arrays)
    out["out"], found = unit.forward(arrays), []
    for shape in params["shapes"]:
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
def convnet_of(load, target, params):
    """Return the ConvNet with weights that are the same whatever it calls them, and what is unusual in it."""
    model, problem = built(load, target, params)
    kinds = by_kind(model.float())
    for kind in ("conv", "linear"):
        for place, q in enumerate(kinds[kind]):
            bound = (6 / q[0].numel()) ** 0.5
            q.copy_(drawn(kind, place, -bound, bound, tuple(q.shape)))
    for place, norm in enumerate(kinds["norm"]):
        norm.eps = 1e-5  # Table 1 does not say which
        for name, (low, high) in NORM_RANGES.items():
            if (q := getattr(norm, name)) is not None:
                q.copy_(drawn(name, place, low, high, tuple(q.shape)))
    for place, q in enumerate(kinds["linear_bias"]):
        q.copy_(drawn("linear_bias", place, -0.2, 0.2, tuple(q.shape)))
    for q in kinds["bias"]:
        q.zero_()
    return model, problem


def convnet_shapes(load, target, params, arrays, out):
    """Shapes of the ConvNet's convolutions, batch norms and linear layer, in order, and how many parameters it has."""
    model, _ = built(load, target, params)
    kinds = by_kind(model)
    out["convolutions"] = np.array([tuple(q.shape) for q in kinds["conv"]], np.float64).reshape(-1, 4)
    out["norms"] = np.array([m.num_features for m in kinds["norm"]], np.float64)
    out["linear"] = np.array([tuple(q.shape) for q in kinds["linear"]], np.float64).reshape(-1, 2)
    out["is_float32"] = np.array(float(all(q.dtype == torch.float32 for q in model.parameters())))
    out["count"] = np.array(float(sum(q.numel() for q in model.parameters()) - sum(q.numel() for q in kinds["bias"])))


def convnet(load, target, params, arrays, out):
    """The ConvNet without dropout: logits, the calls by which they come, and how many gradients are missing or zero."""
    model, problem = convnet_of(load, target, params)
    x = torch.from_numpy(arrays["x"].copy()).requires_grad_()
    with Traced(model) as traced:
        y = model(x)
    out["problem"] = text(problem)
    out["out"] = numbers(y)
    note_calls(out, y)
    backward(y, torch.linspace(-1, 1, y.numel()))
    grads = [q.grad for q in (x, *model.parameters()) if id(q) in traced.used]
    right = [g is not None and bool(g.isfinite().all()) and (g.ndim < 2 or bool(g.any())) for g in grads]
    out["n_wrong"] = np.array(float(right.count(False)))


@torch.no_grad()
def convnet_rows(load, target, params, arrays, out):
    """Logits in evaluation: of all images, again, of the first half alone, and with other running statistics."""
    model, _ = convnet_of(load, target, params | {"evaluation": True})
    x = torch.from_numpy(arrays["x"].copy())
    out["out"], out["again"], out["half"] = (numbers(model(part)) for part in (x, x, x[: len(x) // 2]))
    for layer in by_kind(model)["norm"]:
        if layer.running_mean is not None:
            layer.running_mean += 1
    out["moved"] = numbers(model(x))


def convnet_train(load, target, params, arrays, out):
    """Train a ConvNet by Adam on the batches given, a new one if `is_first`; it is kept, also for prediction."""
    torch.set_num_threads(params["threads"])
    if params["is_first"]:
        torch.manual_seed(params["seed"])
        model, _ = built(load, target, {"args": [3, 10]})
        load.kept["convnet"] = model, torch.optim.Adam(model.parameters(), params["learning_rate"])
    model, optimizer = load.kept["convnet"]
    model.train()
    for x, labels in batches(params, arrays):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(labels).long()).backward()
        optimizer.step()


@torch.no_grad()
def convnet_predict(load, target, params, arrays, out):
    """Logits of the trained ConvNet, in evaluation, for images that were not there while it trained."""
    model = load.kept["convnet"][0].eval()
    x = torch.from_numpy(arrays["images"].astype(np.float32) - arrays["mean_image"])
    out["out"] = np.concatenate([numbers(model(part)) for part in x.split(250)])
