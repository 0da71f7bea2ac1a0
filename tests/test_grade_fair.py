"""Grades are fair: what the course does not ask for costs nothing, and one mistake has one price."""

import pytest
from graded import PROJECT, checks_of, grade, lost, replaced

B = "custom_batchnorm.py"
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
def test_number_of_neurons_is_refused_by_any_error_of_the_submission(server, line):
    is_lost, says = SHAPE_CHECKS[line]
    text = replaced(PROJECT[B], CHECK_SHAPES, f"    {line}\n    if False:\n        raise ValueError(")
    outcomes, _ = grade(server, {B: text}, [check for check in checks_of(B) if check.name.endswith("wrong_shape")])
    assert lost(outcomes) == ["bn_autograd.wrong_shape", "bn_module.wrong_shape"] * is_lost
    for outcome in outcomes.values():
        assert says in outcome.expected + outcome.hint
        assert outcome.hint or not says
