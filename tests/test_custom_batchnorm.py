"""The three batch norms: gradients by finite differences, agreement with PyTorch's, wrong backward passes caught."""

import inspect
import itertools
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import custom_batchnorm
from custom_batchnorm import CustomBatchNormAutograd, CustomBatchNormManualFunction, CustomBatchNormManualModule

EPS = 1e-5
MODULES = [CustomBatchNormAutograd, CustomBatchNormManualModule]
# Batches of odd and even size, one neuron and more neurons than examples.
SHAPES = [(2, 1), (2, 5), (3, 4), (17, 8), (257, 2)]


def tensors(n_batch, n_neurons, dtype=torch.float64, seed=0):
    """Return x, gamma and beta."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n_batch, n_neurons, dtype=dtype, generator=generator) + 2
    gamma, beta = torch.randn(2, n_neurons, dtype=dtype, generator=generator)
    return [t.clone().requires_grad_() for t in (x, gamma, beta)]


def autograd_norm(x, gamma, beta):
    """`CustomBatchNormAutograd` as a function of its parameters."""
    module = CustomBatchNormAutograd(len(gamma)).double()
    return torch.func.functional_call(module, {"weight": gamma, "bias": beta}, x)


def manual_norm(x, gamma, beta):
    return CustomBatchNormManualFunction.apply(x, gamma, beta, EPS)


def manual_module_norm(x, gamma, beta):
    module = CustomBatchNormManualModule(len(gamma)).double()
    return torch.func.functional_call(module, {"weight": gamma, "bias": beta}, x)


NORMS = [autograd_norm, manual_norm, manual_module_norm]


# ---- Gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_gradients_agree_with_finite_differences(norm, shape):
    assert gradcheck(norm, tensors(*shape))


@pytest.mark.parametrize("norm", NORMS)
def test_second_derivatives_agree_with_finite_differences(norm):
    assert gradgradcheck(norm, tensors(5, 3))


def test_second_derivative_is_right_where_the_first_was_not_asked_to_have_one_upstream():
    """A constant `dout` does not hide the statistics' part in the second derivative."""

    def penalty(norm, x, gamma, beta):
        (dx,) = torch.autograd.grad((norm(x, gamma, beta) ** 3).sum(), x, create_graph=True)
        return torch.autograd.grad((dx**2).sum() + x.sum(), x)[0]

    args = tensors(6, 4)
    torch.testing.assert_close(penalty(manual_norm, *args), penalty(autograd_norm, *args))


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3))[1:], ids=str)
def test_every_combination_of_gradients_asked_for(needs):
    args = tensors(7, 3)
    for tensor, need in zip(args, needs, strict=True):
        tensor.requires_grad_(need)
    assert gradcheck(manual_norm, args)


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3)), ids=str)
def test_backward_returns_only_the_gradients_asked_for(needs):
    x, gamma, _ = (t.detach() for t in tensors(7, 3))
    kept = (x, *custom_batchnorm.normalized(x, EPS))
    saved = (*kept, gamma) if needs[0] else kept if needs[1] else ()
    ctx = SimpleNamespace(needs_input_grad=(*needs, False, False), saved_tensors=saved, eps=EPS)
    with torch.no_grad():
        grads = CustomBatchNormManualFunction.backward(ctx, torch.ones_like(x))
    assert [grad is not None for grad in grads] == [*needs, False, False]


@pytest.mark.parametrize("custom", MODULES)
def test_float64_input_is_not_rounded_to_float32(custom):
    x, *_ = tensors(6, 4)
    assert custom(4)(x).dtype == torch.float64
    assert gradcheck(custom(4), x)


@pytest.mark.parametrize("custom", MODULES)
@pytest.mark.parametrize("track", [False, True])
def test_float32_input_is_normalised_in_the_parameters_float64(custom, track):
    x, *_ = tensors(6, 4, dtype=torch.float32)
    module = custom(4, track_running_stats=track).double()
    got, expected = module(x), module(x.double())
    assert got.dtype == torch.float64
    assert (got == expected).all()


@pytest.mark.parametrize(("needs", "n_saved"), [((0, 0, 1), 0), ((0, 1, 0), 3), ((1, 0, 0), 4)])
def test_forward_saves_only_what_backward_needs(needs, n_saved):
    args = tensors(4, 3)
    for tensor, need in zip(args, needs, strict=True):
        tensor.requires_grad_(bool(need))
    assert len(manual_norm(*args).grad_fn.saved_tensors) == n_saved


@pytest.mark.parametrize("norm", NORMS)
def test_neuron_without_variance_and_affine_parameters_of_0(norm):
    x, gamma, beta = tensors(6, 4)
    with torch.no_grad():
        x[:, 1] = 2.5
        gamma[2] = beta[2] = 0
    y = norm(x, gamma, beta)
    assert (y[:, 1] == beta[1]).all()
    assert (y[:, 2] == 0).all()
    # Of the other neurons by finite differences; the constant one's second derivative is of order
    # eps^-3/2, beyond them, so it is put to autograd below.
    others = [0, 2, 3]
    assert gradcheck(lambda *args: norm(*args), (x[:, others].detach().requires_grad_(), gamma[others], beta[others]))
    dout = torch.randn_like(y)
    got = torch.autograd.grad(y, (x, gamma, beta), dout)
    expected = torch.autograd.grad(F.batch_norm(x, None, None, gamma, beta, True, eps=EPS), (x, gamma, beta), dout)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (200, 500)], ids=str)
def test_manual_function_agrees_with_batch_norm_of_pytorch(shape, dtype):
    args = tensors(*shape, dtype=dtype)
    dout = torch.randn(shape, dtype=dtype)
    y, expected = manual_norm(*args), F.batch_norm(args[0], None, None, *args[1:], True, eps=EPS)
    torch.testing.assert_close(y, expected)
    got, wanted = (torch.autograd.grad(out, args, dout) for out in (y, expected))
    # Rounding of one neuron's small gradients is that of its large ones, and of sums over the batch.
    largest = max(g.abs().max().item() for g in wanted)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=200 * torch.finfo(dtype).eps * largest)


# ---- The modules -------------------------------------------------------------------------------


def twins(custom, **options):
    """Return a custom module and `nn.BatchNorm1d` with one state, float64."""
    ours, theirs = custom(4, **options).double(), nn.BatchNorm1d(4, **options).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, -1, 0, 2]))
        theirs.bias.copy_(torch.tensor([1, 0, -2, 0.1]))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("custom", MODULES)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.3, "eps": 1e-2}], ids=str)
def test_running_statistics_agree_with_batchnorm1d_in_training_and_evaluation(custom, options):
    ours, theirs = twins(custom, track_running_stats=True, **options)
    for seed in range(5):
        x, *_ = tensors(6, 4, seed=seed)
        torch.testing.assert_close(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    for module in (ours, theirs):
        module.eval()
    x, *_ = tensors(1, 4)
    torch.testing.assert_close(ours(x), theirs(x))
    fresh = nn.BatchNorm1d(4, **options).double().eval()
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), fresh(x))


@pytest.mark.parametrize("custom", MODULES)
def test_without_running_statistics_evaluation_takes_its_own_batch(custom):
    ours, theirs = twins(custom, track_running_stats=False)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight", "bias"]
    for module in (ours, theirs):
        module.eval()
    x, *_ = tensors(6, 4)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("custom", MODULES)
def test_bfloat16_input_is_normalised_in_the_parameters_precision(custom):
    x = (1000 + torch.randn(64, 4)).bfloat16()
    torch.testing.assert_close(custom(4)(x), custom(4)(x.float()))


# ---- Half precision ----------------------------------------------------------------------------

HALVES = [torch.float16, torch.bfloat16]


def is_exact_but_for_rounding(got, expected, dtype):
    """Assert that `got` is of `dtype`, computed in float32 and rounded once, where `expected` is float64.

    Then they part by one unit in the last place at most: where float32's own error, that of a sum, moved a
    number across the border between two of them.
    """
    assert got.dtype == dtype
    expected = expected.to(dtype).double()
    float32_error = 50 * torch.finfo(torch.float32).eps * expected.abs().max().item()
    eps = torch.finfo(dtype).eps
    smallest = torch.finfo(dtype).tiny * eps  # below `tiny` the last place is no longer relative
    torch.testing.assert_close(got.double(), expected, rtol=eps, atol=float32_error + smallest)


def agrees_with_pytorch(got, expected, mean, deviation):
    """Assert that `got` is what `nn.BatchNorm1d` gives in the same dtype.

    On a CPU it rounds mean and deviation to the dtype, before x̂ is computed: x̂ is off by a unit in the last
    place of itself and of mean / deviation. Twice that, for what is summed of it.
    """
    assert got.dtype == expected.dtype
    atol = 2 * torch.finfo(got.dtype).eps * (1 + abs(mean) / deviation) * expected.abs().max().item()
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def outputs_and_gradients(norm, x, dout):
    """Return y and the gradients of x, gamma and beta; `norm` is a module."""
    x = x.clone().requires_grad_()
    y = norm(x)
    return y, *torch.autograd.grad(y, (x, norm.weight, norm.bias), dout.to(y.dtype))


class FunctionOnly(nn.BatchNorm1d):
    """The manual function itself on the parameters of a `BatchNorm1d`."""

    def forward(self, input):
        return CustomBatchNormManualFunction.apply(input, self.weight, self.bias, self.eps)


def half_modules(custom, dtype, **options):
    """Return a custom module, `nn.BatchNorm1d` of `dtype`, and it in float64, with one state."""
    torch.manual_seed(0)
    theirs = nn.BatchNorm1d(8, **options)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    ours, exact = custom(8, **options), nn.BatchNorm1d(8, **options)
    theirs.to(dtype)
    for module in (ours.to(dtype), exact.double()):
        module.load_state_dict(theirs.state_dict())
    return ours, theirs, exact


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("custom", [*MODULES, FunctionOnly])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 1), (0, 300), (1000, 300), (-3, 0.01)])
def test_half_precision_agrees_with_batchnorm1d_and_with_float64(custom, dtype, mean, deviation):
    ours, theirs, exact = half_modules(custom, dtype, track_running_stats=False)
    x, dout = torch.randn(2, 64, 8)
    x, dout = (mean + deviation * x).to(dtype), dout.to(dtype)
    got, wanted = outputs_and_gradients(ours, x, dout), outputs_and_gradients(theirs, x, dout)
    assert got[0].abs().max() > 0.5  # an overflow of the variance makes them all beta
    for g, w, e in zip(got, wanted, outputs_and_gradients(exact, x.double(), dout), strict=True):
        agrees_with_pytorch(g, w, mean, deviation)
        is_exact_but_for_rounding(g, e, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("custom", MODULES)
@pytest.mark.parametrize("deviation", [1, 300])
def test_half_precision_agrees_with_batchnorm1d_in_evaluation(custom, dtype, deviation):
    ours, theirs, exact = half_modules(custom, dtype, track_running_stats=True)
    for _ in range(5):
        x = (1 + deviation * torch.randn(64, 8)).to(dtype)
        agrees_with_pytorch(ours(x), theirs(x), 1, deviation)
    for name in ("running_mean", "running_var"):
        agrees_with_pytorch(getattr(ours, name), getattr(theirs, name), 1, deviation)
    for module in (theirs, exact):
        module.load_state_dict(ours.state_dict())
    for module in (ours, theirs, exact):
        module.eval()
    x, dout = (deviation * torch.randn(64, 8)).to(dtype), torch.randn(64, 8).to(dtype)
    got, wanted = outputs_and_gradients(ours, x, dout), outputs_and_gradients(theirs, x, dout)
    for g, w, e in zip(got, wanted, outputs_and_gradients(exact, x.double(), dout), strict=True):
        agrees_with_pytorch(g, w, 1, deviation)
        is_exact_but_for_rounding(g, e, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("custom", [*MODULES, FunctionOnly])
def test_half_precision_input_with_float32_parameters_gives_float32(custom, dtype):
    """As autocast has it; each gradient is of its input's dtype, and rounded once."""
    ours, _, exact = half_modules(custom, torch.float32, track_running_stats=False)
    x, dout = (300 * torch.randn(64, 8)).to(dtype), torch.randn(64, 8)
    got, wanted = outputs_and_gradients(ours, x, dout), outputs_and_gradients(exact, x.double(), dout)
    for g, w, expected_dtype in zip(got, wanted, [torch.float32, dtype, torch.float32, torch.float32], strict=True):
        is_exact_but_for_rounding(g, w, expected_dtype)


@pytest.mark.parametrize("custom", MODULES)
def test_float64_input_is_tracked_by_float32_statistics(custom):
    module, x = custom(4, track_running_stats=True), tensors(6, 4)[0]
    module(x)
    torch.testing.assert_close(module.running_mean, (0.1 * x.mean(dim=0)).float())
    torch.testing.assert_close(module.running_var, (0.9 + 0.1 * x.var(dim=0)).float())


# ---- torch.func ----------------------------------------------------------------------------------


def plain_norm(x, gamma, beta):
    """Batch norm as its formula reads."""
    mean = x.mean(dim=0)
    return gamma * (x - mean) / torch.sqrt(((x - mean) ** 2).mean(dim=0) + EPS) + beta


def cost(norm):
    """Return a scalar function of x, gamma and beta: a cube, since the sum of y does not depend on x."""
    return lambda x, gamma, beta: (norm(x, gamma, beta) ** 3).sum()


TRANSFORMS = {
    "grad": lambda norm: torch.func.grad(cost(norm), (0, 1, 2)),
    "jacrev": lambda norm: torch.func.jacrev(norm, (0, 1, 2)),
    "vmap": lambda norm: lambda x, *others: torch.func.vmap(norm, (0, None, None))(torch.stack([x, 2 * x**2]), *others),
    "jvp": lambda norm: lambda *args: torch.func.jvp(norm, args, args),
    "hessian": lambda norm: torch.func.hessian(cost(norm), (0, 1, 2)),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_functional_transforms_work_by_autograd_and_are_refused_by_the_manual_function(transform):
    args = tuple(t.detach() for t in tensors(5, 3))
    module = CustomBatchNormAutograd(3).double()  # made here: a transform lets no module change its dtype

    def norm(x, gamma, beta):
        return torch.func.functional_call(module, {"weight": gamma, "bias": beta}, x)

    torch.testing.assert_close(transform(norm)(*args), transform(plain_norm)(*args))
    with pytest.raises((RuntimeError, NotImplementedError), match=r"setup_context|jvp"):
        transform(manual_norm)(*args)


# ---- Wrong use ---------------------------------------------------------------------------------


@pytest.mark.parametrize("custom", MODULES)
@pytest.mark.parametrize("shape", [(5, 3), (4,), (5, 4, 1), (2, 4, 8, 8), ()], ids=str)
def test_wrong_shape_is_refused_with_both_shapes(custom, shape):
    message = rf"\(n_batch, 4\), got \({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''}\)"
    with pytest.raises(ValueError, match=message):
        custom(4)(torch.zeros(shape))
    with pytest.raises(ValueError, match=message):
        CustomBatchNormManualFunction.apply(torch.zeros(shape), torch.ones(4), torch.zeros(4), EPS)


@pytest.mark.parametrize(("gamma", "beta"), [((4,), (1,)), ((1, 4), (1, 4)), ((1, 4), (4,)), ((), ())], ids=str)
def test_gamma_and_beta_of_other_shapes_are_refused(gamma, beta):
    message = re.escape(f"gamma and beta of shape (n_neurons,), got {gamma} and {beta}")
    with pytest.raises(ValueError, match=message):
        CustomBatchNormManualFunction.apply(torch.zeros(5, 4), torch.ones(gamma), torch.zeros(beta), EPS)


@pytest.mark.parametrize("n_batch", [0, 1])
@pytest.mark.parametrize("custom", MODULES)
@pytest.mark.parametrize("track_running_stats", [False, True])
def test_training_batch_of_one_is_refused_and_leaves_the_running_statistics(custom, n_batch, track_running_stats):
    module = custom(4, track_running_stats=track_running_stats)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"at least 2 examples, got {n_batch}"):
        module(torch.zeros(n_batch, 4))
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)


def test_function_can_be_called_on_an_instance_as_the_course_does():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function = CustomBatchNormManualFunction(4, eps=EPS)
    args = tensors(5, 4)
    assert (function.apply(*args, EPS) == manual_norm(*args)).all()
    assert (function.apply(*args) == manual_norm(*args)).all()


# ---- Wrong backward passes ---------------------------------------------------------------------

SOURCE = inspect.getsource(custom_batchnorm)
MEAN_TERM, X_HAT_TERM = "scale * dbeta / -n_batch", "x_hat, dgamma, value=-1 / n_batch"
SCALE = "gamma[0] * inverse_std"
KEPT_X_HAT = "(input, x_hat, inverse_std)"
# What is wrong, what is right in the file, and what stands there instead.
MISTAKES = [
    ("beta's gradient averaged over the batch", "dbeta = dout.sum(dim=0)", "dbeta = dout.mean(dim=0)"),
    ("beta's gradient of one example", "dbeta = dout.sum(dim=0)", "dbeta = dout[0]"),
    ("beta's gradient of the wrong sign", "dbeta = dout.sum(dim=0)", "dbeta = -dout.sum(dim=0)"),
    ("gamma's gradient averaged", "dgamma = (dout * x_hat).sum(dim=0)", "dgamma = (dout * x_hat).mean(dim=0)"),
    ("gamma's gradient without x_hat", "dgamma = (dout * x_hat).sum(dim=0)", "dgamma = dout.sum(dim=0)"),
    ("gamma's gradient with x for x_hat", "dgamma = (dout * x_hat).sum(dim=0)", "dgamma = (dout * input).sum(dim=0)"),
    ("gamma's gradient not summed", "dgamma = (dout * x_hat).sum(dim=0)", "dgamma = dout * x_hat"),
    ("mean treated as a constant", MEAN_TERM, "torch.zeros_like(dbeta)"),
    ("variance treated as a constant", X_HAT_TERM, "x_hat, dgamma, value=0"),
    ("both statistics treated as constants", f"torch.addcmul({MEAN_TERM}, scale, dx)", "scale * dout"),
    ("mean's term not divided by the batch", MEAN_TERM, "-scale * dbeta"),
    ("mean's term not scaled", MEAN_TERM, "dbeta / -n_batch"),
    ("variance's term not divided by the batch", X_HAT_TERM, "x_hat, dgamma, value=-1"),
    ("variance's term of the wrong sign", X_HAT_TERM, "x_hat, dgamma, value=1 / n_batch"),
    ("variance's term without x_hat", X_HAT_TERM, "torch.ones_like(x_hat), dgamma, value=-1 / n_batch"),
    ("Bessel's variance backward", X_HAT_TERM, "x_hat, dgamma, value=-1 / (n_batch - 1)"),
    ("gamma forgotten in the input's gradient", SCALE, "inverse_std"),
    ("deviation forgotten in the input's gradient", SCALE, "gamma[0]"),
    ("variance for deviation", SCALE, "gamma[0] * inverse_std**2"),
    ("deviation times for divided by", SCALE, "gamma[0] / inverse_std"),
    ("x_hat of the uncentred input", KEPT_X_HAT, "(input, input * inverse_std, inverse_std)"),
    ("x_hat not scaled", KEPT_X_HAT, "(input, x_hat / inverse_std, inverse_std)"),
    ("statistics constants in the second derivative", "if torch.is_grad_enabled():", "if False:"),
    ("sum over neurons", "dbeta = dout.sum(dim=0)", "dbeta = dout.sum(dim=1)"),
    ("input's gradient not asked for", "if needs_dx:\n", "if False:\n"),
    ("gamma's gradient not handed on", "dgamma if needs_dgamma else None", "None"),
]
# Mistakes of the forward pass are right derivatives of something else: PyTorch's values tell.
WRONG_VALUES = [
    ("Bessel's variance", "centred.square().mean(dim=0)", "centred.square().sum(dim=0) / (len(x) - 1)"),
    ("eps outside the root", "torch.rsqrt(variance + eps)", "1 / (variance.sqrt() + eps)"),
    ("eps left out", "torch.rsqrt(variance + eps)", "torch.rsqrt(variance)"),
    ("statistics over neurons", "mean = x.mean(dim=0)", "mean = x.mean()"),
    ("x not centred", "return centred * inverse_std", "return x * inverse_std"),
    ("x not scaled", "return centred * inverse_std", "return centred"),
    ("beta left out", "torch.addcmul(beta, ", "torch.addcmul(0 * beta, "),
    ("gamma left out", "x_hat, gamma)", "x_hat, torch.ones_like(gamma))"),
]  # fmt: skip


def is_right(source):
    """Return whether the manual function in `source` agrees with finite differences and with PyTorch's values."""
    namespace = {}
    exec(compile(source, "<batch norm with a mistake>", "exec"), namespace)

    def norm(*args):
        return namespace["CustomBatchNormManualFunction"].apply(*args, 1e-2)  # an eps that counts

    args = tensors(6, 4)
    try:
        torch.testing.assert_close(norm(*args), F.batch_norm(args[0], None, None, *args[1:], True, eps=1e-2))
        return gradcheck(norm, args, raise_exception=False) and gradgradcheck(norm, args, raise_exception=False)
    except (AssertionError, RuntimeError):
        return False


@pytest.mark.parametrize(("right", "wrong"), [m[1:] for m in MISTAKES + WRONG_VALUES], ids=[
    m[0] for m in MISTAKES + WRONG_VALUES
])  # fmt: skip
def test_mistake_is_caught(right, wrong):
    assert SOURCE.count(right) == 1, f"{right!r} should stand once in custom_batchnorm.py"
    assert is_right(SOURCE)
    assert not is_right(SOURCE.replace(right, wrong))
