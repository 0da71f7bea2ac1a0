"""The gradient checker itself."""

import numpy as np
import pytest
from gradcheck import assert_close, numerical_gradient


def test_assert_close_reports_name_index_and_values():
    right = np.arange(6.0).reshape(2, 3)
    wrong = right.copy()
    wrong[1, 2] += 0.25
    with pytest.raises(AssertionError, match=r"linear1\.weight: got .*5\.25.* at index \(1, 2\), expected .*5\.0"):
        assert_close("linear1.weight", wrong, right)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_assert_close_refuses_values_that_are_not_finite(bad):
    for pair in ([0.0, bad], [0.0, 0.0]), ([0.0, 0.0], [0.0, bad]):
        with pytest.raises(AssertionError, match="x: got"):
            assert_close("x", *pair)


def test_assert_close_refuses_a_shape_that_would_broadcast():
    with pytest.raises(AssertionError, match=r"bias: shape \(1, 3\), expected \(3,\)"):
        assert_close("bias", np.zeros((1, 3)), np.zeros(3))


def test_numerical_gradient_refuses_float32():
    with pytest.raises(TypeError, match="float64"):
        numerical_gradient(lambda: 0.0, np.zeros(2, np.float32), 1.0)


def test_numerical_gradient_of_a_cube():
    x = np.array([-2.0, 0.0, 3.0])
    assert_close("x", numerical_gradient(lambda: x**3, x, np.ones(3)), 3 * x**2, finite_differences=True)
    assert x.tolist() == [-2.0, 0.0, 3.0]
