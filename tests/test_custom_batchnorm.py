"""The batch norms: values, gradients, agreement with `nn.BatchNorm1d`, dtypes, errors."""

import itertools
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck
from wrong_layers import WRONG_BATCH_NORMS

from custom_batchnorm import CustomBatchNormAutograd, CustomBatchNormManualFunction, CustomBatchNormManualModule

EPS = 1e-5
MODULES = [CustomBatchNormAutograd, CustomBatchNormManualModule]
NORMS = [*MODULES, CustomBatchNormManualFunction]
# Batches of odd and even size, one neuron, and more neurons than examples.
SHAPES = [(2, 1), (2, 5), (3, 4), (17, 8), (257, 2)]


def tensors(n_batch, n_neurons, dtype=torch.float64, seed=0):
    """Return x, gamma and beta, which require gradients."""
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(n_batch, n_neurons, dtype=dtype, generator=generator) + 2
    gamma, beta = torch.randn(2, n_neurons, dtype=dtype, generator=generator)
    return [t.clone().requires_grad_() for t in (x, gamma, beta)]


def as_function(norm, eps=EPS):
    """Convert a batch norm, a module class or an autograd function, to a function of x, gamma and beta."""
    if issubclass(norm, torch.autograd.Function):
        return lambda x, gamma, beta: norm.apply(x, gamma, beta, eps)

    def function(x, gamma, beta):
        module = norm(len(gamma), eps).to(gamma.dtype)
        return torch.func.functional_call(module, {"weight": gamma, "bias": beta}, x)

    return function


def check_norm(norm, args, eps=EPS):
    """Compare values with PyTorch's, and gradients with central differences."""
    f = as_function(norm, eps)
    torch.testing.assert_close(f(*args), F.batch_norm(args[0], None, None, *args[1:], True, eps=eps))
    assert gradcheck(f, args)


# ---- Gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("norm", NORMS)
def test_norm_matches_pytorch_and_finite_differences(norm, shape):
    check_norm(norm, tensors(*shape))


@pytest.mark.parametrize("name", WRONG_BATCH_NORMS)
def test_check_norm_finds_wrong_norm(name):
    with pytest.raises((AssertionError, RuntimeError)):
        check_norm(WRONG_BATCH_NORMS[name], tensors(6, 4), eps=1e-2)  # an eps that changes the results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, (200, 500)], ids=str)
def test_manual_gradients_match_pytorch_up_to_rounding(shape, dtype):
    args = tensors(*shape, dtype=dtype)
    dout = torch.randn(shape, dtype=dtype)
    y = as_function(CustomBatchNormManualFunction)(*args)
    expected = F.batch_norm(args[0], None, None, *args[1:], True, eps=EPS)
    torch.testing.assert_close(y, expected)
    got, wanted = (torch.autograd.grad(out, args, dout) for out in (y, expected))
    # Rounding errors scale with the largest gradients and with sums over the batch.
    largest = max(g.abs().max().item() for g in wanted)
    for g, w in zip(got, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=200 * torch.finfo(dtype).eps * largest)


@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=3))[1:], ids=str)
def test_manual_computes_and_saves_only_needed_gradients(needs):
    args = tensors(7, 3)
    for tensor, need in zip(args, needs, strict=True):
        tensor.requires_grad_(need)
    f = as_function(CustomBatchNormManualFunction)
    assert gradcheck(f, args)
    y = f(*args)
    with torch.no_grad():
        grads = y.grad_fn.apply(torch.ones_like(y))
    assert [grad is not None for grad in grads] == [*needs, False, False]
    needs_dx, needs_dgamma, _ = needs
    n_saved = 3 if needs_dx else 1 if needs_dgamma else 0  # x_hat, inverse_std, gamma
    assert sum(saved is not None for saved in y.grad_fn.saved_tensors) == n_saved


@pytest.mark.parametrize("power", [1, 3])  # with 1 the gradient of y is a constant
def test_manual_second_derivative_raises(power):
    args = tensors(6, 4)
    y = as_function(CustomBatchNormManualFunction)(*args)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad((y**power).sum(), args, create_graph=True)


@pytest.mark.parametrize("norm", NORMS)
def test_norm_accepts_constant_neuron_and_zero_gamma(norm):
    x, gamma, beta = args = tensors(6, 4)
    with torch.no_grad():
        x[:, 1] = 2.5
        gamma[2] = beta[2] = 0
    y, expected = as_function(norm)(*args), F.batch_norm(x, None, None, gamma, beta, True, eps=EPS)
    assert (y[:, 1] == beta[1]).all()
    assert (y[:, 2] == 0).all()
    dout = torch.randn_like(y)
    torch.testing.assert_close(torch.autograd.grad(y, args, dout), torch.autograd.grad(expected, args, dout))


# ---- Modules -----------------------------------------------------------------------------------


def twins(custom, track_running_stats):
    """Return a custom module and `nn.BatchNorm1d` with the same state, in float64."""
    ours, theirs = (norm(4, track_running_stats=track_running_stats).double() for norm in (custom, nn.BatchNorm1d))
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, -1, 0, 2]))
        theirs.bias.copy_(torch.tensor([1, 0, -2, 0.1]))
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("custom", MODULES)
def test_running_statistics_match_batchnorm1d(custom):
    ours, theirs = twins(custom, track_running_stats=True)
    for seed in range(5):
        x, *_ = tensors(6, 4, seed=seed)
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    x, *_ = tensors(1, 4)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    fresh = nn.BatchNorm1d(4).double().eval()
    fresh.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x), fresh(x))


@pytest.mark.parametrize("custom", MODULES)
def test_evaluation_without_running_statistics_uses_batch(custom):
    ours, theirs = twins(custom, track_running_stats=False)
    assert list(ours.state_dict()) == ["weight", "bias"]
    x, *_ = tensors(6, 4)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("custom", MODULES)
def test_running_statistics_work_in_compiled_module(custom):
    x, *_ = tensors(6, 4)
    plain, _ = twins(custom, track_running_stats=True)
    module, _ = twins(custom, track_running_stats=True)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain(x))
    torch.testing.assert_close(module.state_dict(), plain.state_dict())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("x_dtype", "param_dtype"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float64), (torch.float64, torch.float32)],
    ids=str,
)
@pytest.mark.parametrize("custom", MODULES)
def test_norm_computes_in_wider_dtype(custom, x_dtype, param_dtype, training):
    x = (1000 + torch.randn(64, 4)).to(x_dtype).requires_grad_()
    wider = torch.promote_types(x_dtype, param_dtype)
    module = custom(4, track_running_stats=True).train(training)
    y = module.to(param_dtype)(x)
    torch.testing.assert_close(y, custom(4, track_running_stats=True).train(training).to(wider)(x.to(wider)))
    y.square().sum().backward()
    assert (x.grad.dtype, module.weight.grad.dtype) == (x_dtype, param_dtype)


# ---- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(5, 3), (4,), (5, 4, 1), (2, 4, 8, 8), ()], ids=str)
def test_wrong_shape_raises_with_both_shapes(norm, shape):
    with pytest.raises(ValueError, match=re.escape(f"(n_batch, 4), got {shape}")):
        as_function(norm)(torch.zeros(shape), torch.ones(4), torch.zeros(4))


@pytest.mark.parametrize("n_batch", [0, 1])
@pytest.mark.parametrize("custom", MODULES)
@pytest.mark.parametrize("track", [False, True])
def test_too_small_training_batch_raises(custom, n_batch, track):
    module = custom(4, track_running_stats=track)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=f"at least 2 examples, got {n_batch}"):
        module(torch.zeros(n_batch, 4))
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)


def test_function_can_be_applied_on_an_instance():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function = CustomBatchNormManualFunction(4, eps=EPS)
    args = tensors(5, 4)
    assert torch.equal(function.apply(*args, EPS), as_function(CustomBatchNormManualFunction)(*args))
