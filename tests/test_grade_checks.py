"""Grades are fair: a mistake costs the checks of its own class, whatever else is wrong."""

import collections
import functools
import itertools
import random
import sys

import numpy as np
import pytest
from graded import CHECKS, Classes, grade_classes, lost, points
from variants import MORE_MLPS, OTHER_MLPS, WRONG_CONVNETS, WRONG_MLPS, changed, remove_biases

import custom_batchnorm
import mlp_numpy
import modules
from grading.checks.check import Grading, difference
from grading.checks.local import Local
from grading.scheme import BY_HAND_POINTS, FILES, QUESTIONS
from grading.worker.operations import numbers
from mlp_pytorch import MLP
from report.wrong_layers import WRONG_BATCH_NORMS, WRONG_LAYERS, layers_with

LAYERS = ("LinearModule", "LeakyReLUModule", "SoftMaxModule", "CrossEntropyModule")
NORMS = ("CustomBatchNormAutograd", "CustomBatchNormManualFunction", "CustomBatchNormManualModule")
OF_QUESTION = {question: [check for check in CHECKS if check.question == question] for question in QUESTIONS}
OF_NORMS = [check for check in CHECKS if check.question.startswith("3")]
# Not mistakes for a grade: shapes that broadcast, the slope at exactly 0, a loss of probabilities that underflow.
ACCEPTED = {
    "bias_gradient_in_a_row", "mask_true_at_zero", "mask_of_output", "probabilities_of_zero", "dout_overwritten",
    "log_of_zero", "loss_gradient_at_zero",
}  # fmt: skip
# Mistakes that make other things impossible, by the number of checks that they cost.
COST_MORE = {
    "backward_in_forward_order": 3, "first_layer_forgotten": 2,
    "normalized_over_batch": 2, "input_missing": 2, "not_scaled": 2, "gamma_left_out": 3,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def classes_of(wrong):
    """Return `{target: class}` of a class of `report/wrong_layers.py`, in whatever is built of it as well."""
    if wrong in WRONG_BATCH_NORMS.values():
        bases = [name for name in NORMS if issubclass(wrong, getattr(custom_batchnorm, name))]
        return {f"custom_batchnorm.{bases[0]}": wrong}
    layers = vars(layers_with(wrong))
    return {f"{'mlp_numpy' if name == 'MLP' else 'modules'}.{name}": layers[name] for name in layers}


def test_points_are_the_courses():
    from grading.checks import ALL_CHECKS

    found = {q: sum(check.points for check in ALL_CHECKS if check.question == q) for q in QUESTIONS}
    assert found == {"1.2": 15, "2": 20, "3.1": 10, "3.2b": 3, "3.2c": 1, "4": 10}
    assert sum(found.values()) + BY_HAND_POINTS == 100


@pytest.mark.parametrize("name", WRONG_LAYERS | WRONG_BATCH_NORMS)
def test_wrong_class_costs_one_check(name):
    wrong = (WRONG_LAYERS | WRONG_BATCH_NORMS)[name]
    checks = OF_QUESTION["1.2"] if name in WRONG_LAYERS else OF_NORMS
    results = grade_classes(classes_of(wrong), checks)
    assert len(lost(results)) == COST_MORE.get(name, name not in ACCEPTED), lost(results)
    assert all(results[check].called and results[check].problem for check in lost(results))


NAMED = {
    "bias_not_added": ("linear.forward", "The bias is not added"),
    "weight_gradient_transposed": ("linear.weight_gradient", "transposed"),
    "bias_averaged": ("linear.bias_gradient", "divided by the batch size"),
    "slope_ignored": ("leaky_relu.forward", "the slope is not used"),
    "cross_terms_missing": ("softmax.backward", "cross terms are missing"),
    "maximum_not_subtracted": ("softmax.large_logits", "overflows"),
    "loss_summed": ("cross_entropy.forward", "take the mean"),
    "loss_gradient_of_logits": ("cross_entropy.backward", "softmax and loss together"),
    "slope_not_passed": ("mlp_numpy.forward", "neg_slope is not used"),
    "bessel": ("bn_autograd.forward", "Bessel"),
    "eps_missing": ("bn_autograd.eps", "is not used"),
    "mean_constant": ("bn_function.input_gradient", "The mean depends on x"),
    "gamma_averaged": ("bn_function.gamma_gradient", "take the sum"),
}


@pytest.mark.parametrize("name", NAMED)
def test_common_mistake_is_named(name):
    check, says = NAMED[name]
    checks = [c for c in CHECKS if c.name == check]
    assert says in grade_classes(classes_of((WRONG_LAYERS | WRONG_BATCH_NORMS)[name]), checks)[check].note


@pytest.mark.parametrize("name", WRONG_MLPS)
def test_wrong_pytorch_mlp_costs_one_check(name):
    check, wrong = WRONG_MLPS[name]
    results = grade_classes({"mlp_pytorch.MLP": wrong}, OF_QUESTION["2"])
    assert lost(results) == [f"mlp_pytorch.{check}"], [results[c] for c in lost(results)]


@pytest.mark.parametrize("kind", OTHER_MLPS)
def test_network_of_another_kind_is_not_decided(kind):
    results = grade_classes({"mlp_pytorch.MLP": OTHER_MLPS[kind]}, OF_QUESTION["2"])
    undecided = {name: result for name, result in results.items() if result.status == "not decided"}
    assert list(undecided) == lost(results) != []
    assert set(undecided) <= {"mlp_pytorch.forward", "mlp_pytorch.slope", "mlp_pytorch.depth"}
    assert all(kind in result.note for result in undecided.values())


@pytest.mark.parametrize("kind", MORE_MLPS)
def test_dropout_and_batch_norm_cost_nothing(kind):
    assert lost(grade_classes({"mlp_pytorch.MLP": MORE_MLPS[kind]}, OF_QUESTION["2"])) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG_CONVNETS)
def test_wrong_convnet_costs_one_check(name):
    check, says, wrong = WRONG_CONVNETS[name]
    results = grade_classes({"convnet_pytorch.ConvNet": wrong}, OF_QUESTION["4"])
    assert lost(results) == [f"convnet.{check}"], [results[c] for c in lost(results)]
    assert says in results[f"convnet.{check}"].note


# ---- Independence ------------------------------------------------------------------------------


KNOWN = {}


class Remembered(Local):
    """Answers each question about the same classes once, for all submissions."""

    def ask(self, op, target, params, arrays, seconds=None):
        content = tuple((name, array.shape, array.tobytes()) for name, array in arrays.items())
        used = self.loader.classes.get(target), op, target, repr(sorted(params.items())), hash(content)
        if target == "mlp_numpy.MLP" and not params.get("substitutes"):
            used += tuple(sorted((name, id(c)) for name, c in self.loader.classes.items()))
        if used not in KNOWN:
            KNOWN[used] = super().ask(op, target, params, arrays)
        return KNOWN[used]


@functools.cache
def lost_by(*names):
    classes = {}
    for name in names:
        wrong = (WRONG_LAYERS | WRONG_BATCH_NORMS)[name]
        own = {target: c for target, c in classes_of(wrong).items() if c is wrong}
        classes |= own
    grading = Grading(Remembered(Classes(classes)).ask, FILES)
    checks = OF_QUESTION["1.2"] if names[0] in WRONG_LAYERS else OF_NORMS
    return {check.name for check in checks if not grading.run(check).passed}


def pairs():
    """Return all pairs of mistakes in different classes."""
    all_pairs = [pair for wrongs in (WRONG_LAYERS, WRONG_BATCH_NORMS) for pair in itertools.combinations(wrongs, 2)]
    targets = {}
    for name, wrong in (WRONG_LAYERS | WRONG_BATCH_NORMS).items():
        targets[name] = next(target for target, c in classes_of(wrong).items() if c is wrong)
    return [(a, b) for a, b in all_pairs if targets[a] != targets[b]]


@pytest.mark.parametrize("n", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_two_mistakes_cost_what_each_costs(n):
    for a, b in random.Random(n).sample(pairs(), n):
        assert lost_by(a, b) == lost_by(a) | lost_by(b), (a, b)


class Nonsense:
    def __init__(self, *args):
        self.params = {"weight": np.zeros(args[::-1][:2]), "bias": np.zeros(args[-1])} if len(args) == 2 else {}
        self.grads = {}

    def forward(self, x, *y):
        self.x = x
        n = self.params["bias"].size if self.params else x.shape[1]
        return np.cos(np.outer(x.sum(axis=1), np.arange(1, n + 1)))

    def backward(self, dout, *y):
        self.grads = {name: np.cos(param + dout.sum()) for name, param in self.params.items()}
        return np.sin(self.x + dout.sum())


@pytest.mark.parametrize("name", LAYERS)
def test_missing_class_costs_no_more_than_nonsense(name):
    missing, nonsense = (grade_classes({f"modules.{name}": c}, OF_QUESTION["1.2"]) for c in (None, Nonsense))
    assert points(missing) >= points(nonsense)
    own = {"LinearModule": "linear", "LeakyReLUModule": "leaky_relu", "SoftMaxModule": "softmax"}
    prefix = own.get(name, "cross_entropy")
    assert all(check.startswith((prefix, "numpy.batch_mean")) for check in lost(missing))
    assert {missing[check].status for check in lost(missing)} == {"not written"}


class LastBias(MLP):
    def forward(self, x):
        return self.layers[-1].bias.expand(len(x), -1)


class Affine(custom_batchnorm.CustomBatchNormAutograd):
    def normalize(self, input):
        return self.weight * input + self.bias


class BiasOnly(modules.LinearModule):
    def forward(self, x):
        self.x = x
        return np.tile(self.params["bias"], (len(x), 1))

    def backward(self, dout, needs_input_grad=True):
        self.grads = {"weight": 0 * self.params["weight"], "bias": dout.sum(axis=0)}
        return 0 * self.x


@pytest.mark.parametrize(
    ("target", "wrong", "checks"),
    [
        ("mlp_pytorch.MLP", LastBias, ["forward", "slope", "depth", "gradients", "no_hidden", "float32", "steps"]),
        ("custom_batchnorm.CustomBatchNormAutograd", Affine, ["forward", "eps", "gradients"]),
        ("modules.LinearModule", BiasOnly, ["forward", "weight_gradient", "input_gradient"]),
    ],
)
def test_output_that_ignores_the_input_earns_nothing(target, wrong, checks):
    results = grade_classes({target: wrong})
    prefix = {"modules": "linear", "custom_batchnorm": "bn_autograd"}.get(target.split(".")[0], target.split(".")[0])
    assert {f"{prefix}.{name}" for name in checks} <= set(lost(results))


def test_loop_behind_a_removed_trace_function_is_not_passed():
    def forward(self, x):
        sys.settrace(None)
        out = np.array([modules.LinearModule.forward(self, row[None])[0] for row in x])
        self.x = x
        return out

    wrong = type("LinearModule", (modules.LinearModule,), {"forward": forward})
    checks = [check for check in CHECKS if check.name == "numpy.speed"]
    assert lost(grade_classes({"modules.LinearModule": wrong}, checks)) == ["numpy.speed"]


@pytest.mark.parametrize("deviation", [0.01, 1.0])
def test_wrong_initial_weights_are_described(deviation):
    def start(self, *sizes):
        modules.LinearModule.__init__(self, *sizes)
        self.params["weight"] *= deviation / 1e-4

    wrong = type("LinearModule", (modules.LinearModule,), {"__init__": start})
    results = grade_classes({"modules.LinearModule": wrong}, OF_QUESTION["1.2"])
    assert lost(results) == ["linear.start"]
    assert "standard deviation" in results["linear.start"].problem
    assert ("not the variance" in results["linear.start"].note) == (deviation == 0.01)


@pytest.mark.parametrize("name", LAYERS)
def test_zeros_earn_nothing(name):
    base = getattr(modules, name)
    zeros = type(name, (base,), {"forward": lambda self, x, *y: 0 * x[:, :3] if name == "LinearModule" else 0 * x,
                                 "backward": lambda self, dout, *y: np.zeros((4, 5))})  # fmt: skip
    own = [
        check for check in OF_QUESTION["1.2"] if check.name.startswith(name[:4].lower()) and "start" not in check.name
    ]
    assert points(grade_classes({f"modules.{name}": zeros}, own)) == 0


# ---- Unusual styles and mistakes of other kinds --------------------------------------------------


SHARED_GRADS = {}


class Shared(modules.LinearModule):
    """Gradients of all instances are in one dict."""

    def backward(self, dout, needs_input_grad=True):
        dx = super().backward(dout)
        SHARED_GRADS.update(self.grads)
        self.grads = SHARED_GRADS
        return dx


def returning_list(self, x):
    return modules.LinearModule.forward(self, x).tolist()


class Deque(mlp_numpy.MLP):
    """Layers are in a deque, and `params` is something else."""

    def __init__(self, *args):
        super().__init__(*args)
        self.modules, self.layers = collections.deque(self.modules), ()
        self.params = {"neg_slope": args[3]}

    def backward(self, dout):
        for module in reversed(self.modules):
            dout = module.backward(dout)


class SameSizes(mlp_numpy.MLP):
    """Layers of equal sizes are one layer."""

    def __init__(self, *args):
        super().__init__(*args)
        made = {}
        for i, module in enumerate(self.modules):
            if hasattr(module, "params"):
                self.modules[i] = made.setdefault(module.params["weight"].shape, module)
        self.layers = ()


def without_eps_gradient(ctx, dout):
    return custom_batchnorm.CustomBatchNormManualFunction.backward(ctx, dout)[:3]


FUNCTION = custom_batchnorm.CustomBatchNormManualFunction
UNUSUAL = {
    "gradients shared between instances": ("modules.LinearModule", Shared, ["numpy.second_batch"]),
    "a list as output": (
        "modules.LinearModule", type("LinearModule", (modules.LinearModule,), {"forward": returning_list}),
        ["linear.forward"],
    ),
    "layers in a deque": ("mlp_numpy.MLP", Deque, []),
    "numpy layers of equal sizes shared": ("mlp_numpy.MLP", SameSizes, ["mlp_numpy.forward"]),
    "a cast to float32": ("mlp_pytorch.MLP", changed(MLP, lambda self, right, x: right(x.float())), []),
    "no biases": ("mlp_pytorch.MLP", changed(MLP, build=remove_biases), ["mlp_pytorch.parameters"]),
    "no slope in the constructor": (
        "mlp_pytorch.MLP", type("MLP", (MLP,), {"__init__": lambda self, n, h, m: MLP.__init__(self, n, h, m, 0.0)}),
        ["mlp_pytorch.slope"],
    ),
    "no gradient for eps": (
        "custom_batchnorm.CustomBatchNormManualFunction",
        type("F", (FUNCTION,), {"backward": staticmethod(without_eps_gradient)}), ["bn_function.needs_input_grad"],
    ),
    "another default of eps": (
        "custom_batchnorm.CustomBatchNormAutograd",
        type("A", (custom_batchnorm.CustomBatchNormAutograd,),
             {"__init__": lambda self, n, eps=1e-3: custom_batchnorm.CustomBatchNormAutograd.__init__(self, n, eps)}),
        ["bn_autograd.eps"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_class_costs_what_is_wrong_in_it(name):
    target, wrong, expected = UNUSUAL[name]
    questions = {"modules": "1.2", "mlp_numpy": "1.2", "mlp_pytorch": "2", "custom_batchnorm": "3"}
    question = questions[target.split(".")[0]]
    results = grade_classes({target: wrong}, [check for check in CHECKS if check.question.startswith(question)])
    assert lost(results) == expected, [results[check] for check in lost(results)]


# ---- Messages ----------------------------------------------------------------------------------


def test_difference_names_the_worst_entry_and_a_common_factor():
    right = np.arange(6.0).reshape(2, 3)
    wrong = right.copy()
    wrong[1, 2] += 0.25
    assert "wrong in 1 of 6 entries. The largest error is at [1, 2]: got 5.25, expected 5." in difference(
        "loss", wrong, right
    )
    assert "All entries are 0.5 times what is expected." in difference("loss", right / 2, right)


@pytest.mark.parametrize("got", [None, np.zeros(3), np.full((2, 3), np.nan), np.full((2, 3), np.inf)])
def test_difference_refuses_nothing_other_shapes_and_nan(got):
    assert difference("output", got, np.zeros((2, 3)))


def test_numbers_of_another_byte_order_are_converted():
    assert numbers(np.array([1.5, 2.0], ">f8")).tobytes() == np.array([1.5, 2.0]).tobytes()
    with pytest.raises(TypeError, match="expected an array of numbers"):
        numbers(object())
