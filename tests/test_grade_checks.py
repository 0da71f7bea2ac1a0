"""Grades are fair: a mistake costs the checks of its own class, whatever else is wrong."""

import functools
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import variants
from graded import CHECKS, PROJECT, Classes, grade, grade_classes, lost, points
from wrong_layers import HARMLESS, WRONG_BATCH_NORMS, WRONG_LAYERS, layers_with

import custom_batchnorm
from convnet_pytorch import ConvNet
from grading.checks.check import Grading, difference
from grading.checks.local import Local
from grading.scheme import BY_HAND_POINTS, FILES, QUESTIONS

LAYERS = ("LinearModule", "LeakyReLUModule", "SoftMaxModule", "CrossEntropyModule")
NORMS = ("CustomBatchNormAutograd", "CustomBatchNormManualFunction", "CustomBatchNormManualModule")
OF_QUESTION = {question: [check for check in CHECKS if check.question == question] for question in QUESTIONS}
OF_NORMS = [check for check in CHECKS if check.question.startswith("3")]
# Mistakes that make other things impossible, by the number of checks that they cost.
COST_MORE = {
    "backward_in_forward_order": 3, "first_layer_forgotten": 2,
    "normalized_over_batch": 2, "input_missing": 2, "not_scaled": 2, "gamma_left_out": 3,
}  # fmt: skip
# Common mistakes, and words that explain them.
NAMED = {
    "weight_gradient_transposed": "transposed", "bias_averaged": "the mean over the batch",
    "slope_ignored": "the slope is not used", "cross_terms_missing": "cross terms are missing",
    "maximum_not_subtracted": "overflows", "cross_terms_added": "wrong sign",
    "cross_terms_over_batch": "summed over the batch", "cross_terms_unweighted": "lacks the probabilities",
    "loss_over_all": "mean over the classes", "loss_gradient_of_logits": "softmax and loss together",
    "slope_not_passed": "neg_slope is not used", "bessel": "Bessel", "eps_missing": "is not used",
    "mean_constant": "The mean depends on x",
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def classes_of(wrong):
    """Return `{target: class}` of a class of `tests/wrong_layers.py`, in whatever is built of it as well."""
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
    assert len(lost(results)) == COST_MORE.get(name, name not in HARMLESS), lost(results)
    assert all(results[check].called and results[check].problem for check in lost(results))


@pytest.mark.parametrize("name", NAMED)
def test_common_mistake_is_named(name):
    wrong, words = (WRONG_LAYERS | WRONG_BATCH_NORMS)[name], NAMED[name]
    results = grade_classes(classes_of(wrong), OF_QUESTION["1.2"] if name in WRONG_LAYERS else OF_NORMS)
    assert words in " ".join(results[check].note for check in lost(results))


def target_of(wrong):
    """Return the target of a variant, a subclass of the class in its place."""
    base = next(c for c in wrong.__mro__ if f"{c.__module__}.py" in FILES)
    return f"{base.__module__}.{base.__name__}"


@pytest.mark.parametrize(
    ("wrong", "checks", "words"),
    [
        pytest.param(wrong, checks, words, id=name, marks=[pytest.mark.slow] * issubclass(wrong, ConvNet))
        for name, (wrong, checks, words) in variants.VARIANTS.items()
    ],
)
def test_variant_costs_what_is_wrong_in_it(wrong, checks, words):
    target = target_of(wrong)
    file = f"{target.split('.')[0]}.py"
    results = grade_classes({target: wrong}, [check for check in CHECKS if file in check.files])
    assert lost(results) == checks, [results[check] for check in lost(results)]
    texts = [(results[check].called, results[check].problem, results[check].note) for check in checks]
    assert words in str(texts)
    by_hand = {check for check in results if results[check].status == "not decided"}
    assert by_hand == (set(checks) if "decided by hand" in words else set())


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(Path(__file__).with_name("submissions").glob("*.py")), ids=lambda path: path.stem
)
def test_right_submission_in_another_style_loses_nothing(shared_sandbox, path):
    kinds = {"numpy": "modules.py", "batchnorm": "custom_batchnorm.py", "convnet": "convnet_pytorch.py"}
    text = path.read_text(encoding="utf-8")
    file = kinds.get(path.stem.split("_")[-1], "mlp_pytorch.py" if "torch" in text else "mlp_numpy.py")
    checks = [check for check in CHECKS if file in check.files]
    assert lost(grade(shared_sandbox, PROJECT | {file: text}, checks)) == []


@pytest.mark.parametrize(
    ("imports", "end", "note"),
    [
        ("import absent\n", "", "modules.py, line 1: ModuleNotFoundError: No module named 'absent'"),
        ("", "\nprint(open('absent'))\n", "No such file"),
        ("", "\nexit()\n", "SystemExit"),
    ],
)
def test_statement_that_fails_costs_nothing(shared_sandbox, imports, end, note):
    files = PROJECT | {"modules.py": imports + PROJECT["modules.py"] + end}
    with shared_sandbox.worker({name: text.encode() for name, text in files.items()}, ["."]) as worker:
        grading = Grading(worker.ask, FILES)
        assert lost({check.name: grading.run(check) for check in OF_QUESTION["1.2"]}) == []
    (found,) = grading.notes
    assert note in found
    assert "the rest of the file was run" in found


def test_class_is_missing_because_of_an_import(shared_sandbox):
    files = {
        "modules.py": "import absent\n\n\nclass LinearModule(absent.Module):\n    pass\n\n\nclass Other:\n    pass\n"
    }
    results = grade(shared_sandbox, files, [check for check in CHECKS if check.name == "linear.forward"])
    assert "No module named 'absent'" in results["linear.forward"].problem


# ---- Independence ------------------------------------------------------------------------------


@functools.cache
def lost_by(*names):
    wrongs = [(WRONG_LAYERS | WRONG_BATCH_NORMS)[name] for name in names]
    classes = {target: c for wrong in wrongs for target, c in classes_of(wrong).items() if c is wrong}
    return set(lost(grade_classes(classes, OF_QUESTION["1.2"] if names[0] in WRONG_LAYERS else OF_NORMS)))


def pairs():
    """Return all pairs of mistakes in different classes."""
    all_pairs = [pair for wrongs in (WRONG_LAYERS, WRONG_BATCH_NORMS) for pair in itertools.combinations(wrongs, 2)]
    targets = {}
    for name, wrong in (WRONG_LAYERS | WRONG_BATCH_NORMS).items():
        targets[name] = next(target for target, c in classes_of(wrong).items() if c is wrong)
    return [(a, b) for a, b in all_pairs if targets[a] != targets[b]]


@pytest.mark.parametrize("n", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_two_mistakes_cost_what_each_costs(n):
    for a, b in random.Random(n).sample(pairs(), n):
        assert lost_by(a, b) == lost_by(a) | lost_by(b), (a, b)


def test_mlp_is_asked_with_its_own_layers_only_if_it_has_to():
    """If its softmax does not return, nothing else of the MLP may be lost with it."""
    asked = []

    def ask(op, target, params, *rest):
        asked.append((target, params.get("substitutes")))
        return Local(Classes({})).ask(op, target, params, *rest)

    grading = Grading(ask, FILES)
    assert lost({check.name: grading.run(check) for check in OF_QUESTION["1.2"]}) == []
    assert ("mlp_numpy.MLP", "modules.") in asked
    assert ("mlp_numpy.MLP", None) not in asked


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
    assert all(check.startswith((prefix, "layers.batch_mean")) for check in lost(missing))
    assert {missing[check].status for check in lost(missing)} == {"not written"}


@pytest.mark.parametrize("wrong", [variants.LastBias, variants.Affine, variants.InnerProduct, variants.OneLinear])
def test_nonsense_earns_its_start_only(wrong):
    prefix, *earned = wrong.EARNED
    target = target_of(wrong)
    results = grade_classes({target: wrong}, [check for check in CHECKS if check.name.startswith(prefix)])
    assert [check for check in results if results[check].passed] == [prefix + check for check in earned]


# ---- Messages ----------------------------------------------------------------------------------


def test_difference_names_the_worst_entry_and_a_common_factor():
    right = np.arange(6.0).reshape(2, 3)
    wrong = right.copy()
    wrong[1, 2] += 0.25
    assert "wrong in 1 of 6 entries. The largest error is at [1, 2]: got 5.25, expected 5." in difference(
        "loss", wrong, right
    )
    assert "All entries are 0.5 times what is expected." in difference("loss", right / 2, right)
