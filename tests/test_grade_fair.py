"""Grades are fair: what the course does not ask for costs nothing, and one mistake has one price."""

import random

import pytest
import torch
from graded import CHECKS, PROJECT, checks_of, grade, grade_here, lost, replaced
from mistake_pairs import TIMELESS, Pairs, all_broken, all_pairs

from grading.check import Grading, Outcome
from grading.child.operations import is_own

M, N, B, T = "modules.py", "mlp_numpy.py", "custom_batchnorm.py", "mlp_pytorch.py"
CHECK_SHAPES = """    if x.ndim != 2 or x.shape[1:] != gamma.shape:
        raise ValueError("""
SHAPE_CHECKS = {
    "assert x.shape[1] == len(gamma)": (False, "(6, 4, 4); that costs nothing"),
    "if x.size(1) != len(gamma): raise Exception": (False, "costs nothing"),
    "assert x.ndim == 2 and x.shape[1] == len(gamma), 'no'": (False, ""),
    "x * gamma": (True, "PyTorch's own"),
    "nn.BatchNorm1d(4).double()(x)": (True, "PyTorch's own"),
    "assert len(x.shape) == 2": (True, "0: none"),
}


@pytest.mark.parametrize("line", SHAPE_CHECKS)
def test_number_of_neurons_is_refused_by_any_error_of_the_submission(line):
    is_lost, says = SHAPE_CHECKS[line]
    text = replaced(PROJECT[B], CHECK_SHAPES, f"    {line}\n    if False:\n        raise ValueError(")
    outcomes = grade_here({B: text}, [check for check in checks_of(B) if check.name.endswith("wrong_shape")])
    assert lost(outcomes) == ["bn_autograd.wrong_shape", "bn_module.wrong_shape"] * is_lost
    for outcome in outcomes.values():
        assert says in outcome.expected + outcome.hint
        assert outcome.hint or not says


@pytest.mark.parametrize(
    ("failed", "called", "where", "follows"),
    [
        ("forward", "Norm(4)(x)", "", True),
        ("gradients", "Norm(4)(x), backward(dout)", "", True),
        ("gradients", "Norm(4)(x)", "", False),
        ("forward", "Norm(4)(x)", "norm.py, line 3", False),
        ("eps", "Norm(4)(x)", "", False),
    ],
)
def test_what_perhaps_follows_from_what_failed_went_through_it(failed, called, where, follows):
    grading = Grading(None, None, None, None)
    grading.failed[f"norm.{failed}"] = Outcome(False, subject="norm.Norm")
    said = grading._follows_from(Outcome(False, called, subject="norm.Norm", where=where))
    assert said == (f"perhaps this follows from norm.{failed}, above" if follows else "")


@pytest.mark.parametrize(("path", "is_its_own"), [("/submission/code/checks.py", True), ("/usr/lib/code.py", False)])
def test_error_of_a_submission_in_a_folder_code_is_its_own(path, is_its_own):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, it is what is raised below
        exec(compile("raise ValueError", path, "exec"), {"__name__": "code.checks"})
    assert is_own(caught.value) is is_its_own


def undecided(outcomes):
    return [name for name, outcome in outcomes.items() if not outcome.is_decided]


ACTIVATION, RETURN = "modules.append(nn.LeakyReLU(neg_slope))", "return self.layers(self.whitening(x.flatten(1)))"
LAST = "modules.append(nn.Linear(n_inputs, n_classes))"
COMPARED = ["mlp_pytorch.forward", "mlp_pytorch.slope", "mlp_pytorch.depth", "mlp_pytorch.steps"]
BATCH_NORM = (ACTIVATION, f"modules.append(nn.BatchNorm1d(n))\n            {ACTIVATION}")


def called(forward):
    """Return a layer of the submission's own whose forward pass is `forward`."""
    return f"modules.append(type('Called', (nn.Module,), {{'forward': lambda self, x: {forward}}})())"


KINDS = {
    "normalisation": (*BATCH_NORM, COMPARED),
    "normalisation of its own": (
        ACTIVATION, f"modules.append(CustomBatchNormAutograd(n))\n            {ACTIVATION}", COMPARED
    ),
    "dropout": (ACTIVATION, f"{ACTIVATION}\n            modules.append(nn.Dropout(0.5))", COMPARED),
    "another activation (elu)": (ACTIVATION, "modules.append(nn.ELU())", COMPARED),
    "another activation (tanh)": (ACTIVATION, "modules.append(nn.Tanh())", COMPARED[:1]),
    "another activation (gelu), by a function": (ACTIVATION, called("nn.functional.gelu(x)"), COMPARED),
    "another activation (sigmoid), by a function": (ACTIVATION, called("x.sigmoid()"), COMPARED[:1]),
    "normalisation (batch_norm), by a function": (
        ACTIVATION, called("nn.functional.batch_norm(nn.functional.leaky_relu(x, 0.1), None, None, training=True)"),
        COMPARED,
    ),
    "normalisation (mean), by hand": (ACTIVATION, called("(x - x.mean(0)).relu()"), COMPARED),
    "dropout (dropout), by a function": (ACTIVATION, called("nn.functional.dropout(x, 0.5, self.training)"), COMPARED),
    "log-probabilities": (RETURN, f"{RETURN}.log_softmax(dim=1)", COMPARED[:1]),
    "linear layers, not": (
        ACTIVATION, f"modules.extend([nn.LeakyReLU(neg_slope), nn.Linear(n, n)])\n            {ACTIVATION}", COMPARED
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_another_kind_are_checked_for_what_holds_for_any_and_else_not_decided(kind):
    right, wrong, names = KINDS[kind]
    outcomes = grade_here(PROJECT | {T: replaced(PROJECT[T], right, wrong)}, checks_of(T))
    assert undecided(outcomes) == lost(outcomes) == names, outcomes
    assert all(kind.removesuffix(" of its own").split(", by")[0] in outcomes[name].hint for name in names)


def test_what_is_wrong_stays_wrong_in_a_network_of_another_kind():
    wrongs = {
        "mlp_pytorch.gradients": "return self.layers[-1](self.layers[:-1](x.flatten(1)).detach())",
        "mlp_pytorch.forward": f"{RETURN}.softmax(dim=1)",
        "mlp_pytorch.float32": f"{RETURN}.double()",
        "mlp_pytorch.depth": f"{RETURN}[:, : 13 - len(self.layers)]",
    }
    for name, wrong in wrongs.items():
        text = replaced(replaced(PROJECT[T], *BATCH_NORM), RETURN, wrong)
        outcomes = grade_here(PROJECT | {T: text}, checks_of(T))
        assert name in lost(outcomes)
        assert outcomes[name].is_decided, outcomes[name]
    # Layers that nothing goes through, and what is called and thrown away, make no other kind of a wrong network.
    text = replaced(PROJECT[T], LAST, f"{LAST}\n        self.unused = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout())")
    unused = "_ = nn.functional.gelu(self.unused(x[:, :3]).tanh())"
    text = replaced(text, RETURN, f"{unused}\n        return 3 * self.layers(x.flatten(1)) + 1")
    outcomes = grade_here(PROJECT | {T: text}, checks_of(T))
    assert undecided(outcomes) == []
    assert "mlp_pytorch.forward" in lost(outcomes)


def test_a_call_to_no_effect_makes_no_network_of_another_kind_of_one_without_the_layers_asked_for():
    """One linear layer, and what looks like another kind, gains nothing over the linear layer alone."""
    text = (
        "import torch\nfrom torch import nn\n\n\nclass MLP(nn.Module):\n    def __init__(self, n, n_hidden, m, *_):\n"
    )
    text += "        super().__init__()\n        self.layer = nn.Linear(n, m)\n\n    def forward(self, x):\n        "
    honest, trick = "return self.layer(x)\n", "return self.layer(nn.functional.dropout(x, 0.0)) + 0 * x.tanh().sum()\n"
    assert lost(grade_here({T: text + trick}, checks_of(T))) == lost(grade_here({T: text + honest}, checks_of(T)))


@pytest.mark.parametrize("slope", [0.1, 0.2])
def test_slope_that_is_written_into_the_activations_costs_the_slope_alone(slope):
    text = replaced(PROJECT[T], ACTIVATION, f"modules.append(nn.LeakyReLU({slope}))")
    outcomes = grade_here({T: text}, checks_of(T))
    assert lost(outcomes) == ["mlp_pytorch.slope"]
    assert f"({slope} acts)" in outcomes["mlp_pytorch.slope"].hint


def test_layers_that_are_made_by_names_go_with_stand_ins():
    """A linear layer that is wrong in a way that nobody knows costs its own checks, and none of the MLP's."""
    wrong = replaced(PROJECT[M], '["bias"] = dout.sum(axis=0)', '["bias"] = np.sin(dout).sum(axis=0)')
    made = "self.linear(*pair, dtype=dtype, rng=rng)"
    by_names = "self.linear(in_features=pair[0], out_features=pair[1], dtype=dtype, rng=rng)"
    checks = [check for check in CHECKS if {M, N}.intersection(check.files)]
    positional, named = (
        lost(grade_here({M: wrong, N: text}, checks)) for text in (PROJECT[N], replaced(PROJECT[N], made, by_names))
    )
    assert positional == named
    assert not any(name.startswith("mlp_numpy") for name in named)


NATURAL = """
import torch


class Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, eps=1e-5):
        inverse_std = STD
        x_hat = (x - x.mean(dim=0)) * inverse_std
        ctx.save_for_backward(x_hat, gamma, inverse_std)
        return gamma * x_hat + beta

    @staticmethod
    def backward(ctx, dout):
        x_hat, gamma, inverse_std = ctx.saved_tensors
        dbeta, dgamma = dout.sum(dim=0), (dout * x_hat).sum(dim=0)
        dx = gamma * inverse_std * (dout - dbeta / len(dout) - x_hat * dgamma / len(dout))
        x_needs, gamma_needs, beta_needs, _ = ctx.needs_input_grad
        return dx if x_needs else None, dgamma if gamma_needs else None, dbeta if beta_needs else None, None


CustomBatchNormManualFunction = Function
"""


@pytest.mark.parametrize(
    ("std", "lost_check"),
    [
        ("(x.var(dim=0) + eps).rsqrt()", "bn_function.forward"),
        ("1 / (x.var(dim=0, correction=0).sqrt() + eps)", "bn_function.eps"),
    ],
)
def test_a_wrong_forward_pass_whose_statistics_the_right_formula_takes_costs_one_check(std, lost_check):
    text = NATURAL.replace("STD", std)
    outcomes = grade_here(PROJECT | {B: text}, [check for check in CHECKS if check.question == "3.2b"])
    assert lost(outcomes) == [lost_check]


def test_mean_over_the_batch_may_be_taken_in_a_layer_that_has_a_mistake_as_well():
    text = PROJECT[M]
    for right, wrong in (
        ("-y / (len(x) * self._floored(x))", "-y / self._floored(x)"),
        ("(self.x.T @ dout).T", "(self.x.T @ dout).T / len(dout)"),
        ("dout.sum(axis=0)\n", "dout.mean(axis=0)\n"),
        ('out += self.params["bias"]', "pass"),
    ):
        text = replaced(text, right, wrong)
    assert lost(grade_here(PROJECT | {M: text}, checks_of(M))) == ["linear.forward"]


def test_an_empty_list_of_hidden_layers_costs_one_check():
    refuses = 'if len(n_hidden) == 0:\n            raise ValueError("no hidden layer")\n        '
    files = PROJECT | {
        N: replaced(PROJECT[N], "sizes = [n_inputs", f"{refuses}sizes = [n_inputs"),
        M: replaced(PROJECT[M], "np.exp(x - x.max(axis=1, keepdims=True))", "np.exp(x)"),
        T: replaced(PROJECT[T], "super().__init__()", f"super().__init__()\n        {refuses}"),
    }
    outcomes = grade_here(files, [check for check in CHECKS if check.question in ("1.2", "2")])
    assert lost(outcomes) == ["softmax.large_logits", "mlp_numpy.no_hidden", "mlp_pytorch.no_hidden"]
    assert "follows" not in outcomes["mlp_numpy.no_hidden"].hint


def test_float64_in_a_float32_network_costs_the_check_of_that_layer():
    dgamma, out, made = (
        "(dout * x_hat).sum(dim=0)",
        'out += self.params["bias"]',
        "self.layers = nn.Sequential(*modules)",
    )
    wrongs = [
        (
            B,
            "return self.normalize(input)",
            "return self.normalize(input).double()",
            ["bn_autograd.float32", "bn_module.float32"],
        ),
        (B, dgamma, "(torch.ones(len(dout), dtype=torch.float64) @ (dout * x_hat))", ["bn_function.float32"]),
        (M, out, f"assert x.dtype == float\n        {out}", ["numpy.float32"]),
        (T, made, f"{made}.double()", ["mlp_pytorch.float32"]),
    ]
    for file, right, wrong, names in wrongs:
        outcomes = grade_here(PROJECT | {file: replaced(PROJECT[file], right, wrong)}, checks_of(file))
        assert lost(outcomes) == names, (wrong, outcomes)


def test_operations_leave_this_process_its_threads():
    """Their number decides how sums round: a run before and one after would part in their last digits."""
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        grade_here(PROJECT, [check for check in CHECKS if check.name == "mlp_pytorch.steps"])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


@pytest.mark.slow
def test_what_one_file_sets_for_all_of_pytorch_reaches_no_other(shared_sandbox):
    text = PROJECT[T].replace("from torch import nn\n", "import torch\nfrom torch import nn\n\n"
                              "torch.set_default_dtype(torch.float64)\ntorch.set_grad_enabled(False)\n", 1)  # fmt: skip
    names = ("mlp_pytorch.gradients", "bn_module.gradients", "bn_module.float32", "convnet.float32")
    outcomes, _ = grade(shared_sandbox, PROJECT | {T: text}, [check for check in CHECKS if check.name in names])
    assert lost(outcomes) == []


def test_two_mistakes_in_different_classes_cost_what_each_costs():
    """As many pairs as take a few seconds: `python -m tests.mistake_pairs` tries all."""
    pairs, rng = Pairs([check for check in TIMELESS if check.question == "1.2"]), random.Random(0)
    in_modules = [pair for pair in all_pairs() if all(m.target.startswith(("modules", "mlp_numpy")) for m in pair)]
    assert [text for pair in rng.sample(in_modules, 15) if (text := pairs.differ(*pair))] == []
    broken = [pair for pair in all_broken() if all(m.target.startswith(("modules", "mlp_numpy")) for m in pair)]
    assert [text for pair in rng.sample(broken, 15) if (text := pairs.raised(*pair))] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_two_mistakes_in_any_two_classes_cost_what_each_costs():
    pairs, rng = Pairs(), random.Random(1)
    assert [text for pair in rng.sample(all_pairs(), 60) if (text := pairs.differ(*pair))] == []
    assert [text for pair in rng.sample(all_broken(), 60) if (text := pairs.raised(*pair))] == []
