"""Question 3: batch norm, by autograd, by hand, and the module around that."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from grading.checks.case import Case, constant_output, first_failed, float32, forward, gradient, same, second_batch
from grading.checks.check import PASSED, Check, Result, failure, is_close, is_varied
from grading.checks.inputs import norm_input

EPS, EPSILONS = 1e-5, (0.1, 0.3, 1.0)
WRONG_SHAPES = [[6, 5], [6, 1]]  # a wrong number of neurons; other shapes may be accepted
INPUT, SECOND, ZERO = norm_input(6, 60), norm_input(9, 61), norm_input(6, 62, gamma=[1.5, 0.0, -0.5, 0.0])
SMALL = norm_input(6, 63, scale=0.1)  # with a variance next to which eps is seen
UNIT = {"gamma": np.ones(4), "beta": np.zeros(4)}


def batch_norm(eps):
    return lambda x, gamma, beta: F.batch_norm(x, None, None, gamma, beta, training=True, eps=eps)


def substitute(eps):
    """The function of `worker/substitutes.py`."""
    return lambda x, gamma, beta: gamma * x.sin() - beta + eps * x


def _own_deviation(case, own):
    """Return the gradients of batch norm with the standard deviation that its own forward pass used, right or wrong."""
    gamma, beta, x = (case.arrays[name] for name in ("gamma", "beta", "x"))
    if np.shape(own.get("out")) != x.shape or not gamma.all():
        return {}
    deviation = (x - x.mean(0)) * gamma / (own["out"] - beta)
    eps = torch.tensor(deviation[0] ** 2 - x.var(0))

    def normalised(x, gamma, beta):
        return gamma * (x - x.mean(0)) / (x.var(0, correction=0) + eps).sqrt() + beta

    return dataclasses.replace(case, function=normalised).expected


def _is_norm(grading, case):
    """Return whether an output is normalised, right or wrong: it depends on other rows, or not on the scale of x."""
    x, whole = case.arrays["x"], case.got(grading, "out")
    half, scaled = case.rows(slice(3)).got(grading, "out"), case.replace({"x": 4 * x}).got(grading, "out")
    if not is_varied(whole) or half is None or scaled is None:
        return False
    return not is_close(half, whole[:3]) or is_close(scaled, whole, tolerance=1e-3)


def module(name, arrays=INPUT, eps=None):
    made = f"CustomBatchNorm{name}(4{f', eps={eps}' if eps else ''})"
    params = {"args": [4], "named": {"eps": eps} if eps else {}, "eps": eps or EPS}
    return Case(f"custom_batchnorm.CustomBatchNorm{name}", made, params, arrays,
                batch_norm(eps or EPS), is_comparable=_is_norm, also_right=_own_deviation)  # fmt: skip


def function(grading, arrays=INPUT, eps=None, **more):
    """Return the case of the function; one that works with three arguments alone, without eps, loses just eps."""
    name = "CustomBatchNormManualFunction"
    params = {"args": [], "eps": eps or EPS, "passes_eps": True} | more
    case = Case(f"custom_batchnorm.{name}", f"{name}.apply(x, gamma, beta, {eps or EPS})", params, arrays,
                batch_norm(eps or EPS), is_comparable=_is_norm, also_right=_own_deviation)  # fmt: skip
    without = case.replace(passes_eps=False)
    is_without = eps is None and "needs" not in more and case.ask(grading).error and not without.ask(grading).error
    return without if is_without else case


def autograd(*args):
    return lambda grading: module("Autograd", *args)


def manual(*args):
    return lambda grading: module("ManualModule", *args)


# ---- Checks of any of the three; `case_of` takes Grading and returns a case --------------------


def _forward(case_of):
    """A wrong default of eps is left to the check `eps`."""

    def run(grading):
        case = case_of(grading)
        with_eps = case.replace(named={"eps": case.params["eps"]}) if case.params["args"] else case
        result = forward(grading, case)
        if not result.passed and forward(grading, with_eps).passed:
            case, result = with_eps, PASSED
        return _evaluation(grading, case) if result.passed else result

    return run


def _evaluation(grading, case):
    """In evaluation it normalises as in training, or with running statistics: each row then is by itself."""
    if not case.params["args"]:
        return PASSED
    evaluated = dataclasses.replace(case.replace(evaluation=True), expression=f"evaluation, {case.expression}")
    whole, half = (c.got(grading, "out") for c in (evaluated, evaluated.rows(slice(3))))
    is_by_row = whole is not None and half is not None and is_close(half, whole[:3])
    if is_by_row and not is_close(whole, case.arrays["x"]):
        return PASSED
    source = "it gives in training, or what running statistics give"
    return same(grading, evaluated, {"out": case.got(grading, "out")}, source, backward=False)


def _parameters(name):
    def run(grading):
        case = module(name)
        called = f"{case.expression}, its parameters"
        answer = grading.ask("norm_parameters", case.target, {"args": [4]})
        for parameter, value in (("gamma", 1), ("beta", 0)):
            got = answer.arrays.get(parameter)
            if got is None or got.shape != (4,) or (got != value).any():
                start = "nothing" if got is None else f"{got[:1] if got.ndim == 1 else got.shape}"
                return failure(answer, called, f"{parameter} starts as {start}, expected four numbers {value}.")
        if answer.arrays["is_trainable"]:
            return PASSED
        note = "Make both nn.Parameter: an optimiser sees no other tensors"
        return Result("failed", called, "gamma or beta is not a trainable parameter of the module.", note)

    return run


def _eps(case_of):
    """1/x̂² is an affine function of eps, whatever the variance is, if eps is added to it."""

    def run(grading):
        default, same_eps = (case_of(grading, SMALL | UNIT, eps) for eps in (None, EPS))
        expected = same_eps.got(grading, "out")
        if default.params["args"] and is_varied(expected):
            result = same(grading, default, {"out": expected}, f"eps={EPS} gives", backward=False)
            if not result.passed:
                return result
        cases = [case_of(grading, SMALL | UNIT, eps) for eps in EPSILONS]
        outs = [case.got(grading, "out") for case in cases]
        for case, out in zip(cases, outs, strict=True):
            if not is_varied(out) or out.shape != (6, 4):
                return constant_output(grading, case)
        largest = abs(outs[0]).argmax(axis=0), range(4)
        with np.errstate(all="ignore"):
            first, second, third = (1 / out[largest] ** 2 for out in outs)
            ratio = (third - first) / (second - first)
        right = (EPSILONS[2] - EPSILONS[0]) / (EPSILONS[1] - EPSILONS[0])
        if not is_close(ratio, np.full(4, right), tolerance=1e-3) or not (second > 1.01 * first).all():
            values = ", ".join(map(str, EPSILONS))
            problem = f"The outputs for eps of {values} are not those of eps added to the variance."
            is_unused = is_close(second, first, tolerance=1e-6)
            note = "The argument eps is not used" if is_unused else "Add eps to the variance before taking the root"
            return Result("failed", cases[0].called(False), problem, note)
        return PASSED

    return run


def _gradients(case_of):
    def run(grading):
        case = case_of(grading)
        results = {name: gradient(grading, case, name) for name in ("dx", "dgamma", "dbeta")}
        own = case.own(grading) if results["dx"].passed else {}
        unused = [name for name in own if abs(own[name]).max() < 1e-6]  # γ or β is not used, which `forward` has found
        return first_failed(result for name, result in results.items() if name not in unused)

    return run


def _wrong_shape(name):
    def run(grading):
        case = module(name)
        answer = grading.ask("refuses", case.target, case.params | {"shapes": WRONG_SHAPES}, case.arrays)
        refused, called = answer.arrays.get("refused"), f"{case.expression}(x)"
        if refused is None:
            return failure(answer, called, "A right input is refused.")
        wrong = [tuple(shape) for shape, r in zip(WRONG_SHAPES, refused, strict=True) if r < 1]
        if not wrong:
            return PASSED
        how = "accepted" if 0 in refused else "refused by PyTorch only"
        problem = f"An input of shape {wrong[0]} is {how}, expected an error that the module raises itself."
        return Result("failed", called, problem, "Check the number of neurons and raise a ValueError, or assert it")

    return run


def _second_batch(grading):
    case = module("Autograd", SECOND | {name: INPUT[name] for name in UNIT})
    return second_batch(grading, case, {name: INPUT[name] for name in ("x", "dout")})


# ---- The function ------------------------------------------------------------------------------


def _gradient(name):
    return lambda grading: gradient(grading, function(grading), name)


def _gamma_of_zero(grading):
    """The gradient of x is 0 where gamma is 0; if it is wrong for any gamma, it need only be finite."""
    case = function(grading, ZERO)
    dx, is_zero = case.got(grading, "dx"), ZERO["gamma"] == 0
    is_right = is_varied(dx) and dx.shape == ZERO["x"].shape and not dx[:, is_zero].any()
    if is_right or (is_varied(dx) and not gradient(grading, function(grading), "dx").passed):
        return PASSED
    return failure(case.ask(grading), case.called(), case.wrong(grading, "dx") or "")


def _function_eps(grading):
    """Forward, and backward if that is right with the default."""
    result, case = _eps(function)(grading), function(grading, SMALL, 0.5)
    names = [name for name in ("dx", "dgamma") if gradient(grading, function(grading), name).passed]
    return first_failed([result, *(gradient(grading, case, name) for name in names)])


def _needs_input_grad(grading):
    whole, n_right = function(grading).ask(grading).arrays, 0
    for i, name in enumerate(("x", "gamma", "beta")):
        case = function(grading, needs=[j == i for j in range(3)])
        case = dataclasses.replace(case, expression=f"With a gradient for {name} only, {case.expression}")
        returned, n_arguments = case.got(grading, "returned"), 3 + case.params["passes_eps"]
        if returned is None:
            return failure(case.ask(grading), case.called(), "There is no gradient.")
        if len(returned) < n_arguments:
            problem = f"backward returns {len(returned)} values for {n_arguments} arguments, expected one for each."
            return Result("failed", case.called(), problem, "Return None for eps, too")
        if np.delete(returned, i).any():
            problem = f"backward returns {int(returned.sum())} gradients, though only {name} requires one."
            return Result("failed", case.called(), problem, "Return None for the others (ctx.needs_input_grad)")
        expected = {f"d{name}": whole[f"d{name}"]} if f"d{name}" in whole else {}
        result = same(grading, case, expected, "backward returns if all three require a gradient")
        if not result.passed:
            return result
        n_right += returned.any()
    return PASSED if n_right else failure(case.ask(grading), case.called(), "There is no gradient.")


# ---- The module around it ----------------------------------------------------------------------


def by_any_function(check, *args):
    """Return a check of the module with a substitute for the function, or else with the submission's own."""

    def replaced(grading):
        case = module("ManualModule", *args).replace(substitutes="custom_batchnorm.")
        return dataclasses.replace(case, function=substitute(case.params["eps"]), is_comparable=Case.is_comparable)

    def run(grading):
        result = check(replaced)(grading)
        return result if result.passed else check(manual(*args))(grading)

    return run


def _single(case_of):
    return lambda grading: float32(grading, case_of(grading))


def _checks_of(question):
    return lambda name, points, title, run: Check(name, question, points, title, ("custom_batchnorm.py",), run)


q31, q32b, q32c = _checks_of("3.1"), _checks_of("3.2b"), _checks_of("3.2c")
CHECKS = [
    q31("bn_autograd.parameters", 1.5, "gamma of 1, beta of 0, trainable", _parameters("Autograd")),
    q31("bn_autograd.forward", 2, "normalised output", _forward(autograd())),
    q31("bn_autograd.eps", 1, "the given eps, added to the variance", _eps(lambda _, *args: module("Autograd", *args))),
    q31("bn_autograd.gradients", 3, "gradients of x, gamma and beta, with gammas of 0", _gradients(autograd(ZERO))),
    q31("bn_autograd.second_batch", 1, "independent of the batch before", _second_batch),
    q31("bn_autograd.wrong_shape", 0.75, "a wrong number of neurons is refused", _wrong_shape("Autograd")),
    q31("bn_autograd.float32", 0.75, "float32, as in training", _single(autograd())),
    q32b("bn_function.forward", 0.5, "normalised output", _forward(function)),
    q32b("bn_function.input_gradient", 0.5, "gradient of x", _gradient("dx")),
    q32b("bn_function.gamma_gradient", 0.5, "gradient of gamma", _gradient("dgamma")),
    q32b("bn_function.beta_gradient", 0.5, "gradient of beta", _gradient("dbeta")),
    q32b("bn_function.gamma_of_zero", 0.25, "gradient of x if gamma is 0", _gamma_of_zero),
    q32b("bn_function.eps", 0.25, "the given eps, added to the variance, forward and backward", _function_eps),
    q32b("bn_function.needs_input_grad", 0.25, "None for gradients that are not needed", _needs_input_grad),
    q32b("bn_function.float32", 0.25, "float32, as in training", _single(function)),
    q32c("bn_module.parameters", 0.125, "gamma of 1, beta of 0, trainable", _parameters("ManualModule")),
    q32c("bn_module.forward", 0.25, "normalised output with its own eps", by_any_function(_forward, SMALL, 0.5)),
    q32c("bn_module.gradients", 0.25, "gradients of x, gamma and beta", by_any_function(_gradients)),
    q32c("bn_module.wrong_shape", 0.25, "a wrong number of neurons is refused", _wrong_shape("ManualModule")),
    q32c("bn_module.float32", 0.125, "float32, as in training", by_any_function(_single)),
]  # fmt: skip
