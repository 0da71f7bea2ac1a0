"""One step of SGD on a network that is small enough to follow by hand, computed by modules.py (report, section 1).

python -m report.worked_example
"""

import numpy as np

from mlp_numpy import MLP
from modules import CrossEntropyModule

SLOPE, LEARNING_RATE = 0.1, 0.1
X, T = np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]])  # one example a row
WEIGHTS = np.array([[1.0, 0.5], [-1.0, 0.25]]), np.array([[0.5, 1.0], [-0.25, 0.5]])


def quantities():
    """Return all numbers of the example, `{name: array}`, in the report's shapes."""
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


def example_numbers():
    """Return what the example starts from, and every number of it, as LaTeX, by name as in report.tex."""
    given = {"x_0": X[0], "t": T[0], "weight_1": WEIGHTS[0], "weight_2": WEIGHTS[1]}
    given |= {"slope": np.array(SLOPE), "learning_rate": np.array(LEARNING_RATE)}
    found = {name: matrix_tex(value, "{:g}") for name, value in given.items()}
    found |= {name: matrix_tex(value) for name, value in quantities().items()}
    return {f"example.{name}": tex for name, tex in found.items()}


if __name__ == "__main__":
    for name, value in quantities().items():
        print(f"{name:16} {np.array2string(value + 0.0, precision=4, separator=', ').replace(chr(10), '')}")
