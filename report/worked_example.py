"""One step of SGD on a network that is small enough to follow by hand, computed by modules.py (report, section 1).

python -m report.worked_example
"""

import numpy as np

from mlp_numpy import MLP
from modules import CrossEntropyModule

SLOPE, LEARNING_RATE = 0.1, 0.1
X, T = np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]])  # one example a row
WEIGHTS = np.array([[1.0, 0.5], [-1.0, 0.25]]), np.array([[0.5, 1.0], [-0.25, 0.5]])

# What each line of the report's table says, the equation that gives it, and its name in what `quantities` returns.
FORWARD = (
    (r"\xt^{(1)} = W^{(1)} \x^{(0)} + \bm b^{(1)}", "linear-forward", "x_tilde_1"),
    (r"\x^{(1)} = \text{leaky ReLU}(\xt^{(1)})", "leaky-relu-forward", "x_1"),
    (r"\xt^{(2)} = W^{(2)} \x^{(1)} + \bm b^{(2)}", "linear-forward", "x_tilde_2"),
    (r"\x^{(2)} = \text{softmax}(\xt^{(2)})", "softmax-forward", "x_2"),
    (r"L = -\log x^{(2)}_2", "cross-entropy-forward", "loss"),
)
BACKWARD = (
    (r"\partial L / \partial \x^{(2)} = -\bm t \oslash \x^{(2)}", "cross-entropy-backward", "d_x_2"),
    (r"\partial L / \partial \xt^{(2)} = \x^{(2)} - \bm t", "softmax-cross-entropy", "d_x_tilde_2"),
    (r"\partial L / \partial W^{(2)} = \partial L / \partial \xt^{(2)}\; {\x^{(1)}}\T", "linear-weight", "d_weight_2"),
    (r"\partial L / \partial \bm b^{(2)} = \partial L / \partial \xt^{(2)}", "linear-bias", "d_bias_2"),
    (r"\partial L / \partial \x^{(1)} = {W^{(2)}}\T\, \partial L / \partial \xt^{(2)}", "linear-input", "d_x_1"),
    (
        r"\partial L / \partial \xt^{(1)} = \partial L / \partial \x^{(1)} \odot (1, a)\T",
        "leaky-relu-backward",
        "d_x_tilde_1",
    ),
    (r"\partial L / \partial W^{(1)} = \partial L / \partial \xt^{(1)}\; {\x^{(0)}}\T", "linear-weight", "d_weight_1"),
    (r"\partial L / \partial \bm b^{(1)} = \partial L / \partial \xt^{(1)}", "linear-bias", "d_bias_1"),
)


def quantities():
    """Return every number of the example, `{name: array}`; of vectors and weights as the report writes them."""
    mlp, cross_entropy = MLP(2, [2], 2, SLOPE), CrossEntropyModule()
    first, activation, second, softmax = mlp.modules
    for layer, weight in zip((first, second), WEIGHTS, strict=True):
        layer.params = {"weight": weight.copy(), "bias": np.zeros(2)}
    found = {"x_tilde_1": first.forward(X)}
    found["x_1"] = activation.forward(found["x_tilde_1"])
    found["x_tilde_2"] = second.forward(found["x_1"])
    found["x_2"] = softmax.forward(found["x_tilde_2"])
    found["loss"] = cross_entropy.forward(found["x_2"], T)
    found["d_x_2"] = cross_entropy.backward(found["x_2"], T)
    found["d_x_tilde_2"] = softmax.backward(found["d_x_2"])
    found["d_x_1"] = second.backward(found["d_x_tilde_2"])
    found["d_x_tilde_1"] = activation.backward(found["d_x_1"])
    first.backward(found["d_x_tilde_1"])
    found = {name: np.squeeze(value) for name, value in found.items()}
    for number, layer in enumerate((first, second), 1):
        for name, grad in layer.grads.items():
            found[f"d_{name}_{number}"] = grad
            layer.params[name] = layer.params[name] - LEARNING_RATE * grad
            found[f"{name}_{number}_after"] = layer.params[name]
    found["loss_after"] = np.asarray(cross_entropy.forward(mlp.forward(X), T))
    return found


def matrix_tex(value, form="{:.4f}"):
    """Return a number, a vector as a transposed row, or a matrix as LaTeX; zeros have no sign."""
    rows = [" & ".join(form.format(number + 0.0) for number in row) for row in np.atleast_2d(value)]
    matrix = r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"
    return rows[0] if value.ndim == 0 else matrix + (r"\T" if value.ndim == 1 else "")


def example_tex(rows):
    """Return rows such as `FORWARD` as rows of the report's table."""
    found = quantities()
    return "".join(
        rf"${formula}$ & \eqref{{eq:{equation}}} & ${matrix_tex(found[name])}$ \\" "\n"
        for formula, equation, name in rows
    )


def inputs_tex():
    """Return what the example starts from, as LaTeX: input, target, weights, slope and learning rate."""
    given = {r"\x^{(0)}": X[0], r"\bm t": T[0], "W^{(1)}": WEIGHTS[0], "W^{(2)}": WEIGHTS[1]}
    matrices = [rf"{name} = {matrix_tex(value, '{:g}')}" for name, value in given.items()]
    return r", \quad ".join([*matrices, f"a = {SLOPE:g}", rf"\eta = {LEARNING_RATE:g}"])


def step_tex():
    """Return weights and biases after the step, and the loss before it and after, as LaTeX."""
    found = quantities()
    first, second = (
        r", \; ".join(
            rf"{symbol}^{{({n})}} \to {matrix_tex(found[f'{name}_{n}_after'])}"
            for symbol, name in (("W", "weight"), (r"\bm b", "bias"))
        )
        for n in (1, 2)
    )
    loss = rf"L: {matrix_tex(found['loss'])} \to {matrix_tex(found['loss_after'])}"
    return rf"\begin{{gathered}} {first}, \\[3pt] {second}, \; {loss}. \end{{gathered}}"


if __name__ == "__main__":
    for name, value in quantities().items():
        print(f"{name:16} {np.array2string(value + 0.0, precision=4, separator=', ').replace(chr(10), '')}")
