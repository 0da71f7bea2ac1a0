"""Question 1.2: the layers in NumPy. In the order of the backward pass, in which one needs the other."""

# ruff: noqa: E501, a row of a table stays on its line

import ast
import warnings

import numpy as np

from grading.check import Check, Outcome
from grading.child import operations
from grading.inputs import activation_input, entropy_input, in_float32, large_input, linear_input
from grading.mistakes_layers import CONVENTIONS, LOG_CONSTANT_MISTAKE, C, L
from grading.reference import Classes, Difference, difference

LINEAR_MEAN = next(m for m in CONVENTIONS if m.target == L)
# A loop over examples costs 0.7 µs an example and more; the most expensive loop-free way that we know, Jacobians by
# einsum, 0.1 µs.
SLOW_SECONDS, SLOW_RATIO, SLOW_BY_THE_CLOCK = 0.4e-6, 5, 20e-6
# What loops in Python, or hands back a piece for each example, under a name that does not say so.
LOOPING = {
    "apply_along_axis", "apply_over_axes", "vectorize", "frompyfunc", "fromiter", "nditer", "ndenumerate", "map",
    "split", "array_split", "vsplit", "hsplit", "dsplit",
}  # fmt: skip
SPEED_SIZES, MAX_ATTEMPTS = (2000, 22_000), 3

ENTROPY, ENTROPY_TWO, ENTROPY_ONE = entropy_input([5], 1), entropy_input([5, 8], 2), entropy_input([1], 3)
SOFTMAX, SOFTMAX_TWO, SOFTMAX_ONE = activation_input([5], 4), activation_input([5, 8], 5), activation_input([1], 6)
LARGE = large_input(7)
LEAKY, LEAKY_TWO, LEAKY_ONE = activation_input([5], 8), activation_input([5, 8], 9), activation_input([1], 10)
LINEAR, LINEAR_TWO, LINEAR_ONE = linear_input([4], 11), linear_input([4, 6], 12), linear_input([1], 13)


def one(**params):
    return {"n_batches": 1, "forward": True, "backward": True} | params


def log_allowance(g, op, params, arrays, names):
    """Return by how much a constant of 1e-5 inside the logarithm changes what is expected, half as much again."""
    right = g.reference(op, params, arrays)
    other = g.reference(op, params, arrays, (LOG_CONSTANT_MISTAKE,))
    return {name: 1.5 * abs(other[name] - right[name]) for name in names}


def undivided_allowance(g, params, arrays, keys):
    """Return `log_allowance` for a loss or a gradient that is a sum over the batch: so many times that of a mean."""
    n_batch = max(len(array) for array in arrays.values())
    return {key: n_batch * a for key, a in log_allowance(g, "cross_entropy", params, arrays, keys).items()}


def _entropy_forward(g):
    allowance = undivided_allowance(g, one(), ENTROPY, ["dx0"]) | log_allowance(
        g, "cross_entropy", one(), ENTROPY, ["out0"]
    )
    called = "CrossEntropyModule().forward(x, y), batch of 5"
    return g.compare(called, "cross_entropy", one(), ENTROPY, ["out0"], allowance)


def _entropy_backward(g):
    params = one(forward=False)
    allowance = undivided_allowance(g, params, ENTROPY, ["dx0"])
    called = "CrossEntropyModule().backward(x, y), batch of 5"
    return g.compare(called, "cross_entropy", params, ENTROPY, ["dx0"], allowance)


def _activation(name, args, arrays, keys, called, backward=True):
    def run(g):
        return g.compare(called, "activation", one(name=name, args=args, backward=backward), arrays, keys)

    return run


def _leaky_forward(g):
    for slope in (0.25, 0.0):
        called = f"LeakyReLUModule({slope}).forward(x)"
        params = one(name="LeakyReLUModule", args=[slope])
        outcome = g.compare(called, "activation", params, LEAKY, ["out0"])
        if not outcome.passed:
            return outcome
    return outcome


def _large_logits(g):
    keys = ["out0"] if "softmax.backward" in g.unexplained else ["out0", "dx0"]
    # For a gradient given: the loss's own is infinite at a probability of 0, unless a constant keeps it from it.
    called = "SoftMaxModule().forward(x), backward(dout), logits of some 1000"
    return g.compare(called, "activation", one(name="SoftMaxModule", args=[]), LARGE, keys)


def _linear(key):
    def run(g):
        called = "LinearModule(5, 3).forward(x), batch of 4"
        backward = key != "out0"
        if backward:
            called = "LinearModule(5, 3).forward(x), backward(dout), batch of 4"
        return g.compare(called, "linear", one(backward=backward), LINEAR, [key])

    return run


def _linear_gradient(name):
    """Gradient of weight or bias: the sum over the batch, or the mean where the other one and the loss agree."""
    other = {"weight": "bias", "bias": "weight"}[name]

    def run(g):
        answer = g.ask("linear", one(), LINEAR)

        def kind(which):
            for text, mistakes in (("sum", ()), ("mean", (LINEAR_MEAN,))):
                if difference(answer.arrays, g.reference("linear", one(), LINEAR, mistakes), [f"{which}0"]) is None:
                    return text
            return None

        loss_divides = not any(m.is_harmless and m.target == C for m in g.carried)
        wanted = "sum" if loss_divides else "mean"
        if kind(name) is not None and kind(name) in (kind(other), wanted):
            if kind(name) == kind(other) == "mean":
                g.carry(LINEAR_MEAN)
            return Outcome(True)
        outcome = _linear(f"{name}0")(g)
        if outcome.passed:  # a sum, where weight's, or bias's, is a mean and the loss does not divide
            g.faulty.add(L)
            outcome = Outcome(False, "LinearModule(5, 3).backward(dout), batch of 4", f"the {name} gradient is a sum",
                              "a mean", f"the {name} gradient is not divided by the batch, but that of the {other} is")  # fmt: skip
        return outcome

    return run


def _linear_start(g):
    called = "LinearModule(400, 300).params"
    answer = g.ask("linear_start", {"n_in": 400, "n_out": 300}, {})
    weight, bias = answer.arrays.get("weight"), answer.arrays.get("bias")
    if weight is None or bias is None:
        return g.failure(called, answer, Difference("params", "nothing", "weight and bias", "params did not come back"))
    weight = weight.astype(np.float64)
    if weight.shape != (300, 400) or bias.shape != (300,):
        got = f"shapes {weight.shape}, {bias.shape}"
        return Outcome(False, called, got, "shapes (300, 400) or its transpose, (300,)")
    # Of 120,000 draws the mean is within 5 of its standard errors, and the deviation within 2%, 10 of its own.
    if not abs(weight.mean()) < 5 * 1e-4 / np.sqrt(weight.size) or not abs(weight.std() / 1e-4 - 1) < 0.02:
        got = f"weights of mean {weight.mean():.2g} and standard deviation {weight.std():.3g}"
        is_variance = abs(weight.std() - 0.01) < 1e-3
        hint = "the variance is 0.0001, not the deviation" if is_variance else "the weights start from N(0, 0.0001²)"
        return Outcome(False, called, got, "mean 0 and standard deviation 0.0001", hint)
    if (bias != 0).any():
        return Outcome(False, called, f"biases up to {np.abs(bias).max():.2g}", "0", "the biases start at 0")
    return Outcome(True)


def _other_batches(n, text, entropy, softmax, leaky, linear):
    i = n - 1
    keys = [f"out{i}", f"dx{i}"]
    rows = [
        ("CrossEntropyModule", "", "cross_entropy", {}, entropy, keys),
        ("SoftMaxModule", "", "activation", {"name": "SoftMaxModule", "args": []}, softmax, keys),
        ("LeakyReLUModule", "0.25", "activation", {"name": "LeakyReLUModule", "args": [0.25]}, leaky, keys),
        ("LinearModule", "5, 3", "linear", {}, linear, [*keys, f"weight{i}", f"bias{i}"]),
    ]

    def run(g):
        n_right, failed, unasked, unknown = 0, None, None, set(g.unexplained)
        for module, args, op, params, arrays, keys in rows:
            params = one(n_batches=n) | params
            allowance = undivided_allowance(g, params, arrays, keys) if op == "cross_entropy" else None
            called = f"{module}({args}): forward and backward {text}"
            outcome = g.compare(called, op, params, arrays, keys, allowance)
            n_right += outcome.passed
            if not outcome.passed:
                if f"modules.{module}" in unknown:
                    unasked = unasked or outcome
                else:
                    failed = failed or outcome
        return failed or (Outcome(True) if n_right else unasked)

    return run


_second_batch = _other_batches(
    2, "on batches of different sizes, one after the other", ENTROPY_TWO, SOFTMAX_TWO, LEAKY_TWO, LINEAR_TWO
)
_one_example = _other_batches(1, "on a batch of 1", ENTROPY_ONE, SOFTMAX_ONE, LEAKY_ONE, LINEAR_ONE)
_float32 = _other_batches(1, "in float32", *map(in_float32, (ENTROPY, SOFTMAX, LEAKY, LINEAR)))


def _batch_of_one(g):
    outcome = _one_example(g)
    if not outcome.passed and not outcome.hint and not g.failed:
        outcome.hint = f"larger batches come out right; here {outcome.differs or 'an error is raised'}"
    return outcome


def _speed(g):
    """Processor time that each module takes for one more example, against the reference's.

    The submission's process measures itself, as a busy machine's clock tells little; the clock here sees to it that
    what it says is not far off.
    """
    modules = (("LinearModule", [3, 2]), ("LeakyReLUModule", [0.25]), ("SoftMaxModule", []), ("CrossEntropyModule", []))
    small, large = SPEED_SIZES
    known = [module for module in modules if f"modules.{module[0]}" not in g.unexplained]
    for name, args in known or modules:
        called = f"{name}: forward and backward of {small} and {large} examples"
        times = []
        for _ in range(MAX_ATTEMPTS):  # the least of all counts: other processes only ever add
            theirs, ours, clock = {}, {}, {}
            for n in SPEED_SIZES:
                params = {"name": name, "args": args, "n_batch": n, "seed": 30}
                answer = g.session.ask("speed", params, {})
                found = _wrong(g, params, answer)
                if found is not None:
                    return g.failure(called, answer, found)
                out = {}
                operations.speed(Classes((), np.float64), params, {}, out)
                theirs[n], ours[n], clock[n] = float(answer.arrays["seconds"]), float(out["seconds"]), answer.seconds
            times.append([(t[large] - t[small]) / (large - small) for t in (theirs, ours, clock)])
            their_time, our_time, their_clock = np.min(times, axis=0)
            bound = max(SLOW_SECONDS, SLOW_RATIO * our_time)
            if their_time < bound and their_clock < SLOW_BY_THE_CLOCK:
                break
        else:
            their_time = max(their_time, 0)
            return Outcome(
                False,
                called,
                f"{their_time * 1e6:.2g} µs for each further example ({their_clock * 1e6:.2g} by the clock)",
                f"less than {bound * 1e6:.2g} µs; the reference takes {our_time * 1e6:.2g}",
                f"{name} goes over its batch example by example, {max(their_time, their_clock) / max(our_time, 1e-9):.0f} times the "
                f"reference's time{likely_loop(g.submission, name)}; a matrix product takes the whole batch",
            )
    return Outcome(True)


def likely_loop(submission, name):
    """Return where in modules.py the class `name` seems to go over its batch, or nothing."""
    try:
        tree = ast.parse(submission.files[submission.found["modules.py"]])
    except (KeyError, SyntaxError, ValueError):
        return ""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    if name not in functions:
        return ""
    called = {getattr(node, "id", "") for node in ast.walk(functions[name])} - {name}
    nodes = [node for part in (name, *sorted(called & set(functions))) for node in ast.walk(functions[part])]
    # A call says more than the loop around it.
    calls = [(ast.unparse(node.func), node.lineno) for node in nodes if isinstance(node, ast.Call)]
    calls = [(text, line) for text, line in calls if text.split(".")[-1] in LOOPING]
    kinds = ((ast.For, "a for loop"), (ast.While, "a while loop"), (ast.ListComp | ast.GeneratorExp, "a comprehension"))
    loops = [(text, node.lineno) for node in nodes for kind, text in kinds if isinstance(node, kind)]
    return next((f" (probably by {text} in line {line})" for text, line in calls + loops), "")


def _wrong(g, params, answer):
    keys, found = ["out", "dx"], None
    if np.shape(answer.arrays.get("seconds", ())) != () or "seconds" not in answer.arrays:
        return Difference("processor time", "nothing", "a number", "no time came back")
    for mistakes in ((), tuple(g.carried)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = g.reference("speed", params, {}, mistakes)
        allowance = {k: 1e-3 * abs(expected[k]).max() for k in keys if k in expected}  # float32 and constants in logs
        found = difference(answer.arrays, expected, keys, allowance)
        if found is None:
            return None
    return found


def _check(name, points, title, run):
    return Check(name, "1.2", points, title, ("modules.py",), run)


CHECKS = [
    _check("cross_entropy.forward", 0.75, "the loss, the mean over the batch", _entropy_forward),
    _check("cross_entropy.backward", 0.75, "the loss's gradient", _entropy_backward),
    _check("softmax.forward", 0.75, "probabilities",
           _activation("SoftMaxModule", [], SOFTMAX, ["out0"], "SoftMaxModule().forward(x)", False)),
    _check("softmax.backward", 1, "the whole Jacobian, cross terms too",
           _activation("SoftMaxModule", [], SOFTMAX, ["dx0"], "SoftMaxModule().forward(x), backward(dout)")),
    _check("softmax.large_logits", 0.5, "logits of 1000 do not overflow, forward or backward", _large_logits),
    _check("leaky_relu.forward", 0.75, "the activation, slopes of 0.25 and 0", _leaky_forward),
    _check("leaky_relu.backward", 0.75, "its gradient",
           _activation("LeakyReLUModule", [0.25], LEAKY, ["dx0"], "LeakyReLUModule(0.25).forward(x), backward(dout)")),
    _check("linear.start", 0.5, "weights start from N(0, 0.0001²), biases at 0", _linear_start),
    _check("linear.forward", 1, "the affine map", _linear("out0")),
    _check("linear.weight_gradient", 1, "gradient of the weight", _linear_gradient("weight")),
    _check("linear.bias_gradient", 1, "gradient of the bias", _linear_gradient("bias")),
    _check("linear.input_gradient", 1, "gradient of the input", _linear("dx0")),
    _check("numpy.second_batch", 0.5, "nothing is left of the batch before", _second_batch),
    _check("numpy.batch_of_one", 0.25, "a batch of 1", _batch_of_one),
    _check("numpy.float32", 0.25, "inputs and gradients in float32, as in training", _float32),
    _check("numpy.speed", 0.5, "matrix products, no loops over the batch", _speed),
]  # fmt: skip
