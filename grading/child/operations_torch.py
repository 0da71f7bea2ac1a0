"""The operations of `operations.py` on what is written in PyTorch: MLP, batch norm, ConvNet."""

import contextlib
import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .operations import batches, is_own, match, numbers, parts_of
from .stand_ins import with_stand_ins


def _tensor(array, requires_grad=False):
    return torch.from_numpy(np.array(array)).requires_grad_(requires_grad)


def settle():
    """Set back what PyTorch does by default."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.autograd.set_detect_anomaly(False)
    if torch.are_deterministic_algorithms_enabled():  # the call below imports a compiler, which takes a second
        torch.use_deterministic_algorithms(False)


# ---- MLP ---------------------------------------------------------------------------------------


def find_parameters(module):
    """Return the parameters of a module, also of those in plain lists, which PyTorch overlooks."""
    tensors = parts_of(module, lambda value: isinstance(value, torch.Tensor))
    return [q for q in tensors if isinstance(q, torch.nn.Parameter) or q.requires_grad]


def _new_mlp(load, p):
    return load("mlp_pytorch", "MLP")(p["n_inputs"], p["n_hidden"], p["n_classes"], p["neg_slope"])


def _torch_mlp(load, p, a):
    """Return the MLP with the weights given, its layers as (weight, bias or None), and their weights' shapes.

    All of them want a gradient, also where the submission has frozen them: `mlp_parameters` sees that.
    """
    mlp = _new_mlp(load, p)
    if p.get("float64"):
        mlp.double()
    found = find_parameters(mlp)
    has = [tuple(q.shape) for q in found]
    shapes = [a[f"weight{l}"].shape for l in range(len(p["n_hidden"]) + 1)]
    places = match(has, shapes)
    if None in places:
        raise TypeError(f"MLP holds parameters of shapes {has}, expected weights of {shapes} or their transposes")
    bias_places = match(has, [shape[:1] for shape in shapes])
    layers = [(found[i], None if j is None else found[j]) for i, j in zip(places, bias_places, strict=True)]
    with torch.no_grad():
        for l, (weight, bias) in enumerate(layers):
            value = _tensor(a[f"weight{l}"])
            weight.copy_(value if weight.shape == value.shape else value.T).requires_grad_()
            if bias is not None:
                bias.copy_(_tensor(a[f"bias{l}"]).reshape(bias.shape)).requires_grad_()
    return mlp, layers, shapes


def _note(out, name, tensor, shape):
    """Note a tensor of `shape`, in whichever orientation; where there is none, an empty array."""
    array = np.zeros(0) if tensor is None else numbers(tensor)
    if len(shape) == 1:
        out[name] = array.reshape(-1)
    else:
        out[name] = array if array.shape == tuple(shape) or array.ndim != 2 else array.T


def _backward(y, dout):
    """Do as `y.backward(dout)`, but for the third of a second in which that imports symbolic shapes."""
    (y * dout.reshape(y.shape)).sum().backward()


def mlp_parameters(load, p, a, out):
    """Shapes of the PyTorch MLP's registered parameters, sorted, and which of them want a gradient."""
    params = list(_new_mlp(load, p).parameters())
    shapes = sorted(
        sorted((*q.shape, 1)[:2], reverse=True) if q.ndim < 2 else sorted(q.shape, reverse=True) for q in params
    )
    out["shapes"] = np.array([tuple(s) for s in shapes], np.float64).reshape(-1, 2)
    out["trainable"] = np.array([float(q.requires_grad) for q in params])


def mlp_pytorch(load, p, a, out):
    """The PyTorch MLP: logits, and by cross-entropy the gradients of parameters and input."""
    mlp, layers, shapes = _torch_mlp(load, p, a)
    x = _tensor(a["x"]).to(layers[0][0].dtype).requires_grad_(p["backward"])
    logits = mlp(x.clone())
    out["out"] = numbers(logits)
    if p["backward"]:
        F.cross_entropy(logits, _tensor(a["y"].argmax(axis=1))).backward()
        _note(out, "dx", x.grad, x.shape)
        for l, (weight, bias) in enumerate(layers):
            _note(out, f"weight{l}", weight.grad, shapes[l])
            _note(out, f"bias{l}", bias if bias is None else bias.grad, shapes[l][:1])


def _run_in_float32(network, a, out):
    """Note logits, and that forward and backward run through and leave finite gradients, for a float32 batch."""
    logits = network(_tensor(a["x"].astype(np.float32)))
    out["out"] = numbers(logits)
    loss = F.cross_entropy(logits, _tensor(a["y"].argmax(axis=1)))
    if loss.requires_grad:
        loss.backward()
    grads = [q.grad for q in network.parameters() if q.grad is not None]
    out["is_finite"] = np.array(float(all(bool(grad.isfinite().all()) for grad in grads)))


def mlp_float32(load, p, a, out):
    """The PyTorch MLP as it trains: logits of a float32 batch, and whether its gradients come and are finite.

    With the weights given, or those that it starts from where it may be of another kind than the plain one.
    """
    _run_in_float32(_new_mlp(load, p) if p.get("any_kind") else _torch_mlp(load, p, a)[0], a, out)


class _Traced(TorchFunctionMode):
    """Notes with each tensor the calls by which it came, whether a layer made them or the submission itself."""

    n_calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.n_calls += 1
        call = self.n_calls, getattr(function, "__name__", "").rstrip("_")
        calls = frozenset([call]).union(*map(calls_to, tree_leaves((args, kwargs))))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                tensor.calls = calls
        return result


def calls_to(tensor):
    """Return the calls by which a tensor came, as (number, name of the function). None, where it was not traced."""
    return getattr(tensor, "calls", frozenset())


def mlp_kind(load, p, a, out):
    """What holds for an MLP of any kind: the functions by which its logits come, by name, the logits, and matrices.

    `is_registered` is 1 where PyTorch knows all parameters, and all want a gradient.
    """
    mlp = _new_mlp(load, p)
    params = list(mlp.parameters())
    known = {id(q) for q in params}
    is_registered = all(id(q) in known for q in find_parameters(mlp)) and all(q.requires_grad for q in params)
    out["is_registered"] = np.array(float(is_registered))
    out["matrices"] = np.array([q.shape for q in params if q.ndim == 2], np.float64).reshape(-1, 2)
    with _Traced():
        logits = mlp(_tensor(a["x"]).to(params[0].dtype))
    out["out"] = numbers(logits)
    out["used"] = np.frombuffer(" ".join(name for _, name in sorted(calls_to(logits))).encode(), np.uint8)


def mlp_finite_differences(load, p, a, out):
    """Whether gradients are those of finite differences, in evaluation and float64."""
    mlp = _new_mlp(load, p).double().eval()
    rng = np.random.default_rng(p["seed"])
    x, y = _tensor(a["x"], requires_grad=True), _tensor(a["y"].argmax(axis=1))
    with torch.no_grad():
        for q in mlp.parameters():
            q += torch.from_numpy(rng.normal(0, 0.3, tuple(q.shape)))
    how = {"eps": 1e-5, "rtol": 1e-5, "atol": 1e-7, "check_undefined_grad": False, "raise_exception": False}
    # It changes these tensors in place, and the network has them already.
    is_right = torch.autograd.gradcheck(lambda *_: F.cross_entropy(mlp(x), y), (x, *mlp.parameters()), **how)
    out["is_right"] = np.array(is_right)


def steps_pytorch(load, p, a, out):
    """Weights of the PyTorch MLP after plain gradient descent on the batches given."""
    mlp, layers, shapes = _torch_mlp(load, p, a)
    torch.set_num_threads(p.get("threads", 1))
    dtype = layers[0][0].dtype
    params = [q for pair in layers for q in pair if q is not None]
    for x, y in batches(p, a, one_hot=False):
        for q in params:
            q.grad = None
        F.cross_entropy(mlp(_tensor(x).to(dtype)), _tensor(y)).backward()
        with torch.no_grad():
            for q in params:
                if q.grad is not None:
                    q -= p["learning_rate"] * q.grad
    for l, (weight, bias) in enumerate(layers):
        _note(out, f"weight{l}", weight, shapes[l])
        _note(out, f"bias{l}", bias, shapes[l][:1])


# ---- Batch norm --------------------------------------------------------------------------------


GAMMA_WORDS, BETA_WORDS = ("gamma", "weight", "scale"), ("beta", "bias", "shift")


def _gamma_beta(module):
    """Return γ and β of a fresh module: by names that say it, else by their start values, 1 and 0, else in order."""
    named = [(name.lower(), q) for name, q in module.named_parameters()]
    if len(named) != 2:
        raise TypeError(f"it holds {len(named)} parameters ({', '.join(n for n, _ in named)}), expected gamma and beta")
    (first_name, first), (second_name, second) = named

    def says(name, words):
        return any(word in name for word in words)

    if says(first_name, GAMMA_WORDS) and says(second_name, BETA_WORDS):
        return first, second
    is_swapped = says(first_name, BETA_WORDS) and says(second_name, GAMMA_WORDS)
    return (second, first) if is_swapped or bool((first == 0).all() and (second == 1).all()) else (first, second)


def norm_parameters(load, p, a, out):
    """γ and β of a fresh batch-norm module, and whether they want a gradient."""
    gamma, beta = _gamma_beta(load("custom_batchnorm", p["name"])(p["n_neurons"]))
    out["gamma"], out["beta"] = numbers(gamma).reshape(-1), numbers(beta).reshape(-1)
    out["trainable"] = np.array([float(gamma.requires_grad), float(beta.requires_grad)])


@with_stand_ins
def norm_module(load, p, a, out):
    """A batch-norm module in training: y, and gradients of x, γ and β, over one batch after another."""
    module = load("custom_batchnorm", p["name"])(a["gamma"].size, **({"eps": p["eps"]} if p["eps"] else {})).double()
    gamma, beta = _gamma_beta(module)
    with torch.no_grad():
        gamma.copy_(_tensor(a["gamma"]).reshape(gamma.shape))
        beta.copy_(_tensor(a["beta"]).reshape(beta.shape))
    for i in range(p["n_batches"]):
        x = _tensor(a[f"x{i}"], requires_grad=p["backward"])
        y = module(x.clone())
        out[f"out{i}"] = numbers(y)
        if p["backward"]:
            module.zero_grad()
            _backward(y, _tensor(a[f"dout{i}"]))
            for name, q in (("dx", x), ("dgamma", gamma), ("dbeta", beta)):
                if q.grad is not None:
                    out[f"{name}{i}"] = numbers(q.grad).reshape(x.shape if name == "dx" else -1)


class _Applied(torch.nn.Module):
    """The manual function as a module, for a network."""

    def __init__(self, apply, n_neurons):
        super().__init__()
        self.apply_function = apply
        self.gamma, self.beta = (torch.nn.Parameter(f(n_neurons)) for f in (torch.ones, torch.zeros))

    def forward(self, x):
        return self.apply_function(x, self.gamma, self.beta, 1e-5)


@with_stand_ins
def norm_float32(load, p, a, out):
    """A batch norm, or the manual function, within an MLP that trains in float32."""
    found, n = load("custom_batchnorm", p["name"]), a["weight0"].shape[0]
    norm = _Applied(found.apply, n) if hasattr(found, "apply") and not hasattr(found, "parameters") else found(n)
    linears = [torch.nn.Linear(*a[f"weight{l}"].shape[::-1]) for l in range(2)]
    with torch.no_grad():
        for l, linear in enumerate(linears):
            linear.weight.copy_(_tensor(a[f"weight{l}"]))
            linear.bias.copy_(_tensor(a[f"bias{l}"]))
    _run_in_float32(torch.nn.Sequential(linears[0], norm, torch.nn.LeakyReLU(0.25), linears[1]), a, out)


@with_stand_ins
def norm_wrong_shape(load, p, a, out):
    """A batch-norm module on a right batch, then on wrong ones: 1 for each that it refuses, 0.5 where PyTorch does."""
    module = load("custom_batchnorm", p["name"])(a["x0"].shape[1]).double()
    out["out"] = numbers(module(_tensor(a["x0"])))
    for name in ("refused", "refused_too"):
        found = []
        for shape in p[name]:
            try:
                module(torch.ones(shape, dtype=torch.float64))
                found.append(0.0)
            except Exception as error:
                found.append(1.0 if is_own(error) else 0.5)
        out[name] = np.array(found)


def norm_function(load, p, a, out):
    """The manual function: y, its gradients, and which of them its backward pass returned at all."""
    function = load("custom_batchnorm", "CustomBatchNormManualFunction")
    returned = []  # what the backward pass did: PyTorch keeps no gradient where one has a wrong shape

    class Watched(function):
        @staticmethod
        def backward(ctx, *grads):
            result = function.backward(ctx, *grads)
            returned[:] = result if isinstance(result, tuple) else (result,)
            return result

    args = [
        _tensor(a[name], requires_grad=p["backward"] and need)
        for name, need in zip(("x0", "gamma", "beta"), p["needs"], strict=True)
    ]
    if p["how"] == "instance":
        n = a["gamma"].size  # the course makes one as it makes a module, or bare
        for positional, named in (((n,), {"eps": p["eps"]}), ((n,), {}), ((), {})):
            with contextlib.suppress(TypeError):
                apply = function(*positional, **named).apply
                break
        else:
            raise TypeError("CustomBatchNormManualFunction cannot be made, with n_neurons or without")
    else:
        apply = Watched.apply
    y = apply(*(t.clone() for t in args), p["eps"])
    out["out"] = numbers(y)
    if p["backward"]:
        try:
            _backward(y, _tensor(a["dout0"]))
        finally:
            if returned:
                out["returned"] = np.array([float(g is not None) for g in returned[:3]])
            for i, (name, tensor) in enumerate(zip(("dx", "dgamma", "dbeta"), args, strict=True)):
                if p["needs"][i] and len(returned) > i:
                    grad = returned[i] if tensor.grad is None else tensor.grad
                    out[name] = np.zeros(0) if grad is None else numbers(grad)


# ---- ConvNet -----------------------------------------------------------------------------------


def _by_kind(model):
    """Return the model's convolutions, batch norms and linear layers' tensors, each kind in order."""
    modules = list(model.modules())
    params = list(model.parameters())
    return {
        "conv": [q for q in params if q.ndim == 4],
        "linear": [q for q in params if q.ndim == 2],
        "norm": [m for m in modules if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)],
        "bias": [m.bias for m in modules if isinstance(m, torch.nn.Conv2d) and m.bias is not None],
        "linear_bias": [m.bias for m in modules if isinstance(m, torch.nn.Linear) and m.bias is not None],
    }


@functools.cache  # a submission's ConvNet is filled four times: 0.1 s each
def _drawn(seed, low, high, shape):
    return torch.from_numpy(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


@torch.no_grad()
def _fill(model, seed, conv_bias):
    """Give the model weights that depend on seed, kind and place alone, whatever it calls them."""
    kinds = _by_kind(model)

    def draw(kind, i, like, low, high):
        like.copy_(_drawn((seed, kind, i), low, high, tuple(like.shape)))

    for kind, name in enumerate(("conv", "linear")):
        for i, weight in enumerate(kinds[name]):
            bound = (6 / weight[0].numel()) ** 0.5
            draw(kind, i, weight, -bound, bound)
    around_1, around_0 = (0.5, 1.5), (-0.3, 0.3)
    for i, norm in enumerate(kinds["norm"]):
        named = {"weight": around_1, "bias": around_0, "running_mean": around_0, "running_var": around_1}
        for kind, (name, bounds) in enumerate(named.items(), 2):
            if getattr(norm, name) is not None:  # as without running statistics
                draw(kind, i, getattr(norm, name), *bounds)
    for i, bias in enumerate(kinds["bias"]):
        draw(6, i, bias, -0.2 * conv_bias, 0.2 * conv_bias)
    for i, bias in enumerate(kinds["linear_bias"]):
        draw(7, i, bias, -0.2, 0.2)


def convnet_shapes(load, p, a, out):
    """Shapes of the ConvNet's convolutions, batch norms and linear layer, in order, and how many parameters it has."""
    model = load("convnet_pytorch", "ConvNet")(p["n_channels"], p["n_classes"])
    kinds = _by_kind(model)
    out["convolutions"] = np.array([tuple(q.shape) for q in kinds["conv"]], np.float64).reshape(-1, 4)
    out["norms"] = np.array([m.num_features for m in kinds["norm"]], np.float64)
    out["linear"] = np.array([tuple(q.shape) for q in kinds["linear"]], np.float64).reshape(-1, 2)
    out["count"] = np.array(float(sum(q.numel() for q in model.parameters())))
    out["conv_biases"] = np.array(float(len(kinds["bias"])))


class _WithoutDropout(TorchFunctionMode):
    """Leaves dropout out, whether a layer calls it or the submission itself.

    Attributes:
        acts: whether any dropped something.
    """

    acts = False

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if "dropout" not in getattr(function, "__name__", ""):
            return function(*args, **kwargs)
        given, *args = args or [kwargs.pop("input")]
        self.acts |= not torch.equal(function(given.clone(), *args, **kwargs), given)  # which may act in place
        return given


def convnet(load, p, a, out):
    """The ConvNet with given weights and without dropout: logits in training or evaluation, a number or two of each
    gradient, and whether there would have been dropout."""
    model = load("convnet_pytorch", "ConvNet")(p["n_channels"], p["n_classes"])
    _fill(model, p["seed"], p["conv_bias"])
    model.train(p["training"])
    dtype = next(model.parameters()).dtype
    out["is_float32"] = np.array(float(dtype == torch.float32))
    x = _tensor(a["x"]).to(dtype).requires_grad_(p["backward"])
    with _WithoutDropout() as dropout:
        logits = model(x)
    out["out"], out["dropout"] = numbers(logits), np.array(int(dropout.acts))
    if p["backward"]:
        _backward(logits, _tensor(a["dout"]).to(dtype))
        if x.grad is not None:
            out["dx"] = numbers(x.grad)
        kinds = _by_kind(model)
        norms = [q for m in kinds["norm"] for q in (m.weight, m.bias)]
        for name, params in (("conv", kinds["conv"]), ("linear", kinds["linear"]), ("norm", norms)):
            # Nine million numbers need not travel: each gradient's length and one projection tell as much.
            out[f"d{name}"] = np.array([_two_numbers(q.grad) for q in params], np.float64)


def _two_numbers(grad):
    if grad is None:
        return 0.0, 0.0
    grad = numbers(grad).astype(np.float64).ravel()
    return np.linalg.norm(grad), grad @ _wave(grad.size) / grad.size**0.5


@functools.cache
def _wave(n):
    return np.cos(np.arange(n))


def convnet_train(load, p, a, out):
    """Train a ConvNet by Adam on the batches given, a fresh one where `is_first`; it is kept, also for prediction."""
    torch.set_num_threads(p["threads"])
    if p["is_first"]:
        torch.manual_seed(p["seed"])
        model = load("convnet_pytorch", "ConvNet")(3, 10)
        load.kept["convnet"] = model, torch.optim.Adam(model.parameters(), p["learning_rate"])
    model, optimizer = load.kept["convnet"]
    model.train()
    for x, y in batches(p, a, one_hot=False, flat=False):
        optimizer.zero_grad()
        F.cross_entropy(model(_tensor(x)), _tensor(y)).backward()
        optimizer.step()


@torch.no_grad()
def convnet_predict(load, p, a, out):
    """Logits of the trained ConvNet, in evaluation, for images that were not there while it trained."""
    model = load.kept["convnet"][0].eval()
    x = a["images"].astype(np.float32) - a["mean_image"]
    out["out"] = np.concatenate([numbers(model(_tensor(part))) for part in np.array_split(x, max(1, len(x) // 250))])
