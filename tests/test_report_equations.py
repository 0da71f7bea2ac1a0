"""The report's gradients: index form and matrix form of each, compared with central differences."""

import re
from pathlib import Path

import numpy as np
import pytest
from gradcheck import assert_close, numerical_gradient

from report import worked_example

ROOT = Path(__file__).parents[1]
REPORT = (ROOT / "report" / "report.tex").read_text(encoding="utf-8")
CODE = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("modules.py", "custom_batchnorm.py")}

B, N_IN, N_OUT, SLOPE, EPS = 5, 4, 3, 0.3, 0.1


def equations():
    """Return the names of the report's equations, and of those of gradients: a derivative before the equals sign."""
    bodies = re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", REPORT, re.DOTALL)
    for aligned in re.findall(r"\\begin\{align\}(.*?)\\end\{align\}", REPORT, re.DOTALL):
        bodies += re.split(r"\\\\\n", aligned)
    found = {re.search(r"\\name\{([\w-]+)\}", body)[1]: body for body in bodies}
    return set(found), {name for name, body in found.items() if r"\pd{" in body.split("&=")[0]}


EQUATIONS, GRADIENTS = equations()


# ---- Forward formulas ----------------------------------------------------------------------------


def linear(x, w, b):
    """Eq. (linear-forward) and, for a matrix with an example a row, Eq. (batch-linear-forward)."""
    return x @ w.T + b


def leaky_relu(x):
    """Eq. (leaky-relu-forward)."""
    return np.maximum(0, x) + SLOPE * np.minimum(0, x)


def softmax(x):
    """Eq. (softmax-forward)."""
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def cross_entropy(x, t):
    """Eq. (cross-entropy-forward) and Eq. (batch-cross-entropy-forward)."""
    return -(t * np.log(x)).sum() / (len(x) if x.ndim == 2 else 1)


def statistics(x):
    """Eq. (bn-statistics)."""
    mean = x.sum(axis=0) / B
    return mean, ((x - mean) ** 2).sum(axis=0) / B


def normalized(x):
    """Eq. (bn-forward), left."""
    mean, variance = statistics(x)
    return (x - mean) / np.sqrt(variance + EPS)


def batch_norm(x, gamma, beta):
    """Eq. (bn-forward), right."""
    return gamma * normalized(x) + beta


# ---- One draw of everything that the formulas name -----------------------------------------------


class Draw:
    """Values of the symbols: small letters for one example, capitals for a batch."""

    def __init__(self, n_in=N_IN):
        rng = np.random.default_rng(1)
        self.w, self.b = rng.normal(size=(N_OUT, n_in)), rng.normal(size=N_OUT)
        self.x_in, self.X_in = rng.normal(size=n_in), rng.normal(size=(B, n_in))
        self.x_tilde, self.X_tilde = rng.normal(size=N_OUT), rng.normal(size=(B, N_OUT))
        for x in (self.x_tilde, self.X_tilde):
            x += 0.1 * np.sign(x)  # away from 0, where the leaky ReLU has no derivative
        self.t, self.T = np.eye(N_OUT)[1], np.eye(N_OUT)[rng.integers(N_OUT, size=B)]
        self.g, self.G = rng.normal(size=N_OUT), rng.normal(size=(B, N_OUT))
        self.p, self.P = softmax(self.x_tilde), softmax(self.X_tilde)
        self.gamma, self.beta = rng.normal(size=N_OUT), rng.normal(size=N_OUT)


def jacobian(f, x):
    """Return ∂f/∂x by central differences, of the shape of f() and then that of x."""
    out = f()
    rows = []
    for index in np.ndindex(out.shape):
        pick = np.zeros(out.shape)
        pick[index] = 1
        rows.append(numerical_gradient(f, x, pick))
    return np.array(rows).reshape(*out.shape, *x.shape)


def by_index(shape, entry):
    """Return the array whose entry at each index is `entry(*index)`: a formula in index form."""
    return np.array([entry(*index) for index in np.ndindex(shape)], dtype=float).reshape(shape)


def delta(i, j):
    return float(i == j)


def slope(x):
    return (x > 0) + SLOPE * (x <= 0)


def batch_loss(d):
    return cross_entropy(softmax(d.X_tilde), d.T)


one, eye, diag = np.ones, np.eye, np.diag

# Name: index form, matrix form, and the central differences that both must equal.
FORMULAS = {
    "cross-entropy-backward": (
        lambda d: by_index((N_OUT,), lambda i: -d.t[i] / d.p[i]),
        lambda d: -d.t / d.p,
        lambda d: jacobian(lambda: np.array(cross_entropy(d.p, d.t)), d.p),
    ),
    "softmax-jacobian": (
        lambda d: by_index((N_OUT, N_OUT), lambda i, j: d.p[i] * (delta(i, j) - d.p[j])),
        lambda d: diag(d.p) - np.outer(d.p, d.p),
        lambda d: jacobian(lambda: softmax(d.x_tilde), d.x_tilde),
    ),
    "leaky-relu-jacobian": (
        lambda d: by_index(
            (N_OUT, N_OUT), lambda i, j: delta(i, j) * ((d.x_tilde[i] > 0) + SLOPE * (d.x_tilde[i] <= 0))
        ),
        lambda d: diag((d.x_tilde > 0) + SLOPE * (d.x_tilde <= 0)),
        lambda d: jacobian(lambda: leaky_relu(d.x_tilde), d.x_tilde),
    ),
    "linear-jacobian-input": (
        lambda d: by_index((N_OUT, N_IN), lambda i, j: d.w[i, j]),
        lambda d: d.w,
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.x_in),
    ),
    "linear-jacobian-weight": (
        lambda d: by_index((N_OUT, N_OUT, N_IN), lambda i, j, k: delta(i, j) * d.x_in[k]),
        lambda d: np.stack([np.outer(eye(N_OUT)[i], d.x_in) for i in range(N_OUT)]),
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.w),
    ),
    "linear-jacobian-bias": (
        lambda d: by_index((N_OUT, N_OUT), delta),
        lambda d: eye(N_OUT),
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.b),
    ),
    # Part b: what arrives is ∂L/∂x = g, for the loss L = Σᵢ gᵢ xᵢ of any network above.
    "softmax-backward": (
        lambda d: by_index((N_OUT,), lambda j: d.p[j] * (d.g[j] - sum(d.g[i] * d.p[i] for i in range(N_OUT)))),
        lambda d: (diag(d.p) - np.outer(d.p, d.p)) @ d.g,
        lambda d: numerical_gradient(lambda: softmax(d.x_tilde), d.x_tilde, d.g),
    ),
    "softmax-cross-entropy": (
        lambda d: by_index((N_OUT,), lambda j: d.p[j] - d.t[j]),
        lambda d: d.p - d.t,
        lambda d: numerical_gradient(lambda: cross_entropy(softmax(d.x_tilde), d.t), d.x_tilde, 1.0),
    ),
    "leaky-relu-backward": (
        lambda d: by_index((N_OUT,), lambda i: d.g[i] * ((d.x_tilde[i] > 0) + SLOPE * (d.x_tilde[i] <= 0))),
        lambda d: d.g * ((d.x_tilde > 0) + SLOPE * (d.x_tilde <= 0)),
        lambda d: numerical_gradient(lambda: leaky_relu(d.x_tilde), d.x_tilde, d.g),
    ),
    "linear-input": (
        lambda d: by_index((N_IN,), lambda j: sum(d.g[i] * d.w[i, j] for i in range(N_OUT))),
        lambda d: d.w.T @ d.g,
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.x_in, d.g),
    ),
    "linear-weight": (
        lambda d: by_index((N_OUT, N_IN), lambda j, k: d.g[j] * d.x_in[k]),
        lambda d: d.g[:, None] @ d.x_in[None, :],
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.w, d.g),
    ),
    "linear-bias": (
        lambda d: by_index((N_OUT,), lambda j: d.g[j]),
        lambda d: d.g,
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.b, d.g),
    ),
    # Part c: G or Δ is what arrives.
    "batch-cross-entropy": (
        lambda d: by_index((B, N_OUT), lambda s, i: -d.T[s, i] / (B * d.P[s, i])),
        lambda d: -d.T / (B * d.P),
        lambda d: numerical_gradient(lambda: cross_entropy(d.P, d.T), d.P, 1.0),
    ),
    "batch-softmax": (
        lambda d: by_index(
            (B, N_OUT),
            lambda s, j: d.P[s, j] * (d.G[s, j] - sum(d.G[s, i] * d.P[s, i] for i in range(N_OUT))),
        ),
        lambda d: d.P * (d.G - (d.G * d.P) @ one((N_OUT, 1)) @ one((1, N_OUT))),
        lambda d: numerical_gradient(lambda: softmax(d.X_tilde), d.X_tilde, d.G),
    ),
    "batch-softmax-cross-entropy": (
        lambda d: by_index((B, N_OUT), lambda s, j: (d.P[s, j] - d.T[s, j]) / B),
        lambda d: 1 / B * (d.P - d.T),
        lambda d: numerical_gradient(lambda: batch_loss(d), d.X_tilde, 1.0),
    ),
    "batch-leaky-relu": (
        lambda d: by_index(
            (B, N_OUT), lambda s, i: d.G[s, i] * ((d.X_tilde[s, i] > 0) + SLOPE * (d.X_tilde[s, i] <= 0))
        ),
        lambda d: d.G * ((d.X_tilde > 0) + SLOPE * (d.X_tilde <= 0)),
        lambda d: numerical_gradient(lambda: leaky_relu(d.X_tilde), d.X_tilde, d.G),
    ),
    "batch-linear-input": (
        lambda d: by_index((B, N_IN), lambda s, j: sum(d.G[s, i] * d.w[i, j] for i in range(N_OUT))),
        lambda d: d.G @ d.w,
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.X_in, d.G),
    ),
    "batch-linear-weight": (
        lambda d: by_index((N_OUT, N_IN), lambda j, k: sum(d.G[s, j] * d.X_in[s, k] for s in range(B))),
        lambda d: d.G.T @ d.X_in,
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.w, d.G),
    ),
    "batch-linear-bias": (
        lambda d: by_index((N_OUT,), lambda j: sum(d.G[s, j] for s in range(B))),
        lambda d: d.G.T @ one(B),
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.b, d.G),
    ),
    # Question 3.2 a. The batch is X̃ here; γ and β have N_OUT neurons.
    "bn-beta": (
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] for s in range(B))),
        lambda d: d.G.T @ one(B),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.beta, d.G),
    ),
    "bn-gamma": (
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] * normalized(d.X_tilde)[s, i] for s in range(B))),
        lambda d: (d.G * normalized(d.X_tilde)).T @ one(B),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.gamma, d.G),
    ),
    "bn-normalized": (
        lambda d: by_index((B, N_OUT), lambda s, i: d.gamma[i] * d.G[s, i]),
        lambda d: d.G @ diag(d.gamma),
        # x̂ is called P here: any array will do.
        lambda d: numerical_gradient(lambda: d.gamma * d.P + d.beta, d.P, d.G),
    ),
    "bn-mean-jacobian": (
        lambda d: by_index((B, N_OUT), lambda s, i: 1 / B),
        lambda d: 1 / B * one((B, 1)) @ one((1, N_OUT)),
        lambda d: np.einsum("isi->si", jacobian(lambda: statistics(d.X_tilde)[0], d.X_tilde)),
    ),
    "bn-variance-jacobian": (
        lambda d: by_index((B, N_OUT), lambda s, i: 2 / B * (d.X_tilde[s, i] - statistics(d.X_tilde)[0][i])),
        lambda d: 2 / B * (d.X_tilde - np.outer(one(B), statistics(d.X_tilde)[0])),
        lambda d: np.einsum("isi->si", jacobian(lambda: statistics(d.X_tilde)[1], d.X_tilde)),
    ),
    "bn-jacobian": (
        lambda d: by_index(
            (N_OUT, B, B),
            lambda i, r, s: (
                1
                / np.sqrt(statistics(d.X_tilde)[1][i] + EPS)
                * (delta(r, s) - 1 / B - 1 / B * normalized(d.X_tilde)[r, i] * normalized(d.X_tilde)[s, i])
            ),
        ),
        lambda d: np.stack(
            [
                (eye(B) - 1 / B * np.outer(one(B), one(B)) - 1 / B * np.outer(x_hat, x_hat)) / np.sqrt(variance + EPS)
                for x_hat, variance in zip(normalized(d.X_tilde).T, statistics(d.X_tilde)[1], strict=True)
            ]
        ),
        lambda d: np.einsum("risi->irs", jacobian(lambda: normalized(d.X_tilde), d.X_tilde)),
    ),
    "bn-input": (
        lambda d: by_index(
            (B, N_OUT),
            lambda s, i: (
                d.gamma[i]
                / np.sqrt(statistics(d.X_tilde)[1][i] + EPS)
                * (
                    d.G[s, i]
                    - 1 / B * FORMULAS["bn-beta"][0](d)[i]
                    - 1 / B * normalized(d.X_tilde)[s, i] * FORMULAS["bn-gamma"][0](d)[i]
                )
            ),
        ),
        lambda d: (
            (
                d.G
                - 1 / B * one((B, 1)) @ one((1, B)) @ d.G
                - 1 / B * normalized(d.X_tilde) @ diag((d.G * normalized(d.X_tilde)).T @ one(B))
            )
            @ diag(d.gamma / np.sqrt(statistics(d.X_tilde)[1] + EPS))
        ),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.X_tilde, d.G),
    ),
}


def deviation(d):
    return np.sqrt(statistics(d.X_tilde)[1] + EPS)


def bn_input(d, x_hat, deviation):
    """Return batch norm's input gradient, Eq. (bn-input), from what a forward pass took for x̂ and for the root."""
    return d.gamma / deviation * (d.G - d.G.mean(axis=0) - x_hat * (d.G * x_hat).mean(axis=0))


def bessel(d):
    root = np.sqrt(d.X_tilde.var(axis=0, ddof=1) + EPS)
    return bn_input(d, (d.X_tilde - d.X_tilde.mean(axis=0)) / root, root)


def epsilon_outside(d):
    root = d.X_tilde.std(axis=0) + EPS
    return bn_input(d, (d.X_tilde - d.X_tilde.mean(axis=0)) / root, root)


# The report's table of mistakes: its name there, the equation that it is made in, and what it gives instead.
WRONG = {
    "An index used twice": ("batch-softmax", lambda d: d.G * d.P * (1 - d.P)),
    "Cross terms summed over the batch": ("batch-softmax", lambda d: d.P * (d.G - (d.G * d.P).sum(axis=0))),
    "Division by the batch forgotten": ("batch-softmax-cross-entropy", lambda d: d.P - d.T),
    "Division by the batch done twice": ("batch-linear-weight", lambda d: d.G.T @ d.X_in / B),
    "The bias gradient written as a matrix": ("batch-linear-bias", lambda d: d.G),
    "The bias gradient averaged": ("batch-linear-bias", lambda d: d.G.mean(axis=0)),
    "The weight gradient transposed": ("batch-linear-weight", lambda d: d.X_in.T @ d.G),
    "The weight not transposed": ("linear-input", lambda d: d.w @ d.g),
    "The slope lost on the way back": ("batch-leaky-relu", lambda d: d.G * (d.X_tilde > 0)),
    "The slope of the wrong sign": ("batch-leaky-relu", lambda d: d.G * np.where(d.X_tilde > 0, 1, -SLOPE)),
    "The slope on both sides": ("batch-leaky-relu", lambda d: d.G * ((d.X_tilde > 0) + SLOPE)),
    "The sum over the batch lost": (
        "bn-input",
        lambda d: d.G * d.gamma / deviation(d) * (1 - 1 / B - normalized(d.X_tilde) ** 2 / B),
    ),
    "The mean taken for a constant": (
        "bn-input",
        lambda d: bn_input(d, normalized(d.X_tilde), deviation(d)) + d.gamma / deviation(d) * d.G.mean(axis=0),
    ),
    "The variance taken for a constant": ("bn-input", lambda d: bn_input(d, 0, deviation(d))),
    "Bessel's correction": ("bn-input", bessel),
    "Epsilon outside the root": ("bn-input", epsilon_outside),
    "Gamma forgotten": ("bn-input", lambda d: bn_input(d, normalized(d.X_tilde), deviation(d)) / d.gamma),
}
# In a layer that is not square, these two have the wrong shape; their values must be found, too.
OF_A_SQUARE_LAYER = {"The weight gradient transposed", "The weight not transposed"}


def test_report_equations_of_gradients_are_all_checked():
    assert set(FORMULAS) == GRADIENTS


@pytest.mark.parametrize("name", FORMULAS)
def test_report_equation_equals_central_differences(name):
    index, matrix, numerical = FORMULAS[name]
    draw = Draw()
    expected = numerical(draw)
    assert_close(f"{name}, index form", index(draw), expected, finite_differences=True)
    assert_close(f"{name}, matrix form", matrix(draw), expected, finite_differences=True)


def test_code_and_report_cite_each_others_equations():
    cited = {name for code in CODE.values() for name in re.findall(r"Eq\. \(([\w-]+)\)", code)}
    assert (cited - EQUATIONS, GRADIENTS - cited) == (set(), set())


def test_report_eigenvalues_of_batch_norm_are_right():
    """√(σ² + ε) times its Jacobian has 0 along 1, ε / (σ² + ε) along x̂, and 1 otherwise."""
    draw = Draw()
    jacobians, (_, variance) = FORMULAS["bn-jacobian"][1](draw), statistics(draw.X_tilde)
    for jacobian_i, v in zip(jacobians, variance, strict=True):
        eigenvalues = np.linalg.eigvalsh(np.sqrt(v + EPS) * jacobian_i)
        np.testing.assert_allclose(eigenvalues, [0, EPS / (v + EPS), *[1] * (B - 2)], atol=1e-14)


def test_report_code_is_in_the_modules():
    printed_code = re.findall(r"\\code\{(.+?)\}", REPORT.split(r"\begin{document}")[1])
    assert printed_code
    for code in printed_code:
        assert code in "".join(CODE.values()), f"the report prints {code}, which is in neither module"


def test_worked_example_follows_from_equations():
    """By the formulas of one example, and not by modules.py."""
    w1, w2, x, t, a = *worked_example.WEIGHTS, worked_example.X[0], worked_example.T[0], worked_example.SLOPE
    expected = {"x_tilde_1": w1 @ x}
    slope_1 = np.where(expected["x_tilde_1"] > 0, 1, a)
    assert sorted(slope_1) == [a, 1], "one hidden unit of each sign"
    expected["x_1"] = slope_1 * expected["x_tilde_1"]
    expected["x_tilde_2"] = w2 @ expected["x_1"]
    expected["x_2"] = softmax(expected["x_tilde_2"])
    expected["loss"] = -np.log(expected["x_2"][1])
    expected["d_x_2"] = -t / expected["x_2"]
    expected["d_x_tilde_2"] = expected["d_bias_2"] = expected["x_2"] - t
    expected["d_weight_2"] = np.outer(expected["d_x_tilde_2"], expected["x_1"])
    expected["d_x_1"] = w2.T @ expected["d_x_tilde_2"]
    expected["d_x_tilde_1"] = expected["d_bias_1"] = slope_1 * expected["d_x_1"]
    expected["d_weight_1"] = np.outer(expected["d_x_tilde_1"], x)
    after = {}
    for name, value in {"weight_1": w1, "weight_2": w2, "bias_1": 0, "bias_2": 0}.items():
        after[name] = expected[f"{name}_after"] = value - worked_example.LEARNING_RATE * expected[f"d_{name}"]
    hidden = after["weight_1"] @ x + after["bias_1"]
    hidden = np.where(hidden > 0, 1, a) * hidden
    expected["loss_after"] = -np.log(softmax(after["weight_2"] @ hidden + after["bias_2"])[1])
    found = worked_example.quantities()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("mistake", WRONG)
def test_report_mistake_is_found(mistake):
    name, wrong = WRONG[mistake]
    draw = Draw(n_in=N_OUT if mistake in OF_A_SQUARE_LAYER else N_IN)
    with pytest.raises(AssertionError, match=name):
        assert_close(name, wrong(draw), FORMULAS[name][2](draw), finite_differences=True)


def test_report_table_lists_these_mistakes():
    assert re.findall(r"\\mistake\{(.*?)\}", REPORT) == list(WRONG)
