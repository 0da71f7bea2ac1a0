"""The report's gradients: index form and matrix form of each, compared with central differences."""

import re
from pathlib import Path

import numpy as np
import pytest
from wrong_layers import WRONG_BATCH_NORMS, WRONG_LAYERS

from report import worked_example

ROOT = Path(__file__).parents[1]
REPORT = (ROOT / "report" / "report.tex").read_text(encoding="utf-8")
CODE = (ROOT / "modules.py").read_text(encoding="utf-8") + (ROOT / "custom_batchnorm.py").read_text(encoding="utf-8")

B, N_IN, N_OUT, SLOPE, EPS = 5, 4, 3, 0.3, 0.1


# ---- Forward formulas ----------------------------------------------------------------------------


def linear(x, w, b):
    """Eq. (linear-forward) and, for a matrix with an example a row, Eq. (batch-linear-forward)."""
    return x @ w.T + b


def leaky_relu(x, slope=SLOPE):
    """Eq. (leaky-relu-forward)."""
    return np.maximum(0, x) + slope * np.minimum(0, x)


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


# ---- Values of the symbols: small letters for one example, capitals for a batch -------------------

rng = np.random.default_rng(1)
w, b, x, X = rng.normal(size=(N_OUT, N_IN)), rng.normal(size=N_OUT), rng.normal(size=N_IN), rng.normal(size=(B, N_IN))
gamma, beta = rng.normal(size=N_OUT), rng.normal(size=N_OUT)
x_tilde, X_tilde = rng.normal(size=N_OUT), rng.normal(size=(B, N_OUT))
for pre_activation in (x_tilde, X_tilde):
    pre_activation += 0.1 * np.sign(pre_activation)  # away from 0, where the leaky ReLU has no derivative
p, P = softmax(x_tilde), softmax(X_tilde)
t, T = np.eye(N_OUT)[1], np.eye(N_OUT)[rng.integers(N_OUT, size=B)]
g, G = rng.normal(size=N_OUT), rng.normal(size=(B, N_OUT))  # ∂L/∂x, for the loss L = Σᵢ gᵢ xᵢ of any network above
mean, variance = statistics(X_tilde)
X_hat, root = normalized(X_tilde), np.sqrt(variance + EPS)


def numerical_gradient(f, x, dout):
    """Return the gradient of Σ f() ⊙ dout with respect to `x`, which f reads, by central differences."""
    grad = np.empty_like(x)
    h = np.cbrt(np.finfo(float).eps)
    for index in np.ndindex(x.shape):
        value, losses = x[index], []
        for x[index] in (value + h, value - h):
            losses.append(np.sum(f() * dout))
        x[index] = value
        grad[index] = (losses[0] - losses[1]) / (2 * h)
    return grad


def assert_gradient(name, got, numerical):
    """Assert that a gradient equals central differences, with the tolerance that the report states."""
    tolerance = 1000 * np.finfo(float).eps ** (2 / 3) * max(1, np.abs(numerical).max())
    np.testing.assert_allclose(got, numerical, rtol=0, atol=tolerance, strict=True, err_msg=name)


def jacobian(f, x):
    """Return ∂f/∂x by central differences, of the shape of f() and then that of x."""
    picks = np.eye(f().size).reshape(-1, *f().shape)
    return np.array([numerical_gradient(f, x, pick) for pick in picks]).reshape(*f().shape, *x.shape)


def by_index(shape, entry):
    """Return the array whose entry at each index is `entry(*index)`: a formula in index form."""
    return np.array([entry(*index) for index in np.ndindex(shape)], dtype=float).reshape(shape)


def slope(x):
    return (x > 0) + SLOPE * (x <= 0)


one, eye, diag, outer = np.ones, np.eye, np.diag, np.outer

# Name: index form, matrix form, and the central differences that both must equal.
FORMULAS = {
    "cross-entropy-backward": (
        by_index((N_OUT,), lambda i: -t[i] / p[i]),
        -t / p,
        numerical_gradient(lambda: cross_entropy(p, t), p, 1.0),
    ),
    "softmax-jacobian": (
        by_index((N_OUT, N_OUT), lambda i, j: p[i] * ((i == j) - p[j])),
        diag(p) - outer(p, p),
        jacobian(lambda: softmax(x_tilde), x_tilde),
    ),
    "leaky-relu-jacobian": (
        by_index((N_OUT, N_OUT), lambda i, j: (i == j) * slope(x_tilde[i])),
        diag(slope(x_tilde)),
        jacobian(lambda: leaky_relu(x_tilde), x_tilde),
    ),
    "linear-jacobian-input": (
        by_index((N_OUT, N_IN), lambda i, j: w[i, j]),
        w,
        jacobian(lambda: linear(x, w, b), x),
    ),
    "linear-jacobian-weight": (
        by_index((N_OUT, N_OUT, N_IN), lambda i, j, k: (i == j) * x[k]),
        np.stack([outer(row, x) for row in eye(N_OUT)]),
        jacobian(lambda: linear(x, w, b), w),
    ),
    "linear-jacobian-bias": (
        by_index((N_OUT, N_OUT), lambda i, j: i == j),
        eye(N_OUT),
        jacobian(lambda: linear(x, w, b), b),
    ),
    # Part b.
    "softmax-backward": (
        by_index((N_OUT,), lambda j: p[j] * (g[j] - sum(g[i] * p[i] for i in range(N_OUT)))),
        (diag(p) - outer(p, p)) @ g,
        numerical_gradient(lambda: softmax(x_tilde), x_tilde, g),
    ),
    "softmax-cross-entropy": (
        by_index((N_OUT,), lambda j: p[j] - t[j]),
        p - t,
        numerical_gradient(lambda: cross_entropy(softmax(x_tilde), t), x_tilde, 1.0),
    ),
    "leaky-relu-backward": (
        by_index((N_OUT,), lambda i: g[i] * slope(x_tilde[i])),
        g * slope(x_tilde),
        numerical_gradient(lambda: leaky_relu(x_tilde), x_tilde, g),
    ),
    "linear-input": (
        by_index((N_IN,), lambda j: sum(g[i] * w[i, j] for i in range(N_OUT))),
        w.T @ g,
        numerical_gradient(lambda: linear(x, w, b), x, g),
    ),
    "linear-weight": (
        by_index((N_OUT, N_IN), lambda j, k: g[j] * x[k]),
        g[:, None] @ x[None, :],
        numerical_gradient(lambda: linear(x, w, b), w, g),
    ),
    "linear-bias": (
        by_index((N_OUT,), lambda j: g[j]),
        g,
        numerical_gradient(lambda: linear(x, w, b), b, g),
    ),
    # Part c.
    "batch-cross-entropy": (
        by_index((B, N_OUT), lambda s, i: -T[s, i] / (B * P[s, i])),
        -T / (B * P),
        numerical_gradient(lambda: cross_entropy(P, T), P, 1.0),
    ),
    "batch-softmax": (
        by_index((B, N_OUT), lambda s, j: P[s, j] * (G[s, j] - sum(G[s, i] * P[s, i] for i in range(N_OUT)))),
        P * (G - (G * P) @ one((N_OUT, 1)) @ one((1, N_OUT))),
        numerical_gradient(lambda: softmax(X_tilde), X_tilde, G),
    ),
    "batch-softmax-cross-entropy": (
        by_index((B, N_OUT), lambda s, j: (P[s, j] - T[s, j]) / B),
        1 / B * (P - T),
        numerical_gradient(lambda: cross_entropy(softmax(X_tilde), T), X_tilde, 1.0),
    ),
    "batch-leaky-relu": (
        by_index((B, N_OUT), lambda s, i: G[s, i] * slope(X_tilde[s, i])),
        G * slope(X_tilde),
        numerical_gradient(lambda: leaky_relu(X_tilde), X_tilde, G),
    ),
    "batch-linear-input": (
        by_index((B, N_IN), lambda s, j: sum(G[s, i] * w[i, j] for i in range(N_OUT))),
        G @ w,
        numerical_gradient(lambda: linear(X, w, b), X, G),
    ),
    "batch-linear-weight": (
        by_index((N_OUT, N_IN), lambda j, k: sum(G[s, j] * X[s, k] for s in range(B))),
        G.T @ X,
        numerical_gradient(lambda: linear(X, w, b), w, G),
    ),
    "batch-linear-bias": (
        by_index((N_OUT,), lambda j: sum(G[s, j] for s in range(B))),
        G.T @ one(B),
        numerical_gradient(lambda: linear(X, w, b), b, G),
    ),
    # Question 3.2 a. The batch is X̃ here; γ and β have N_OUT neurons.
    "bn-beta": (
        by_index((N_OUT,), lambda i: sum(G[s, i] for s in range(B))),
        G.T @ one(B),
        numerical_gradient(lambda: batch_norm(X_tilde, gamma, beta), beta, G),
    ),
    "bn-gamma": (
        by_index((N_OUT,), lambda i: sum(G[s, i] * X_hat[s, i] for s in range(B))),
        (G * X_hat).T @ one(B),
        numerical_gradient(lambda: batch_norm(X_tilde, gamma, beta), gamma, G),
    ),
    "bn-normalized": (
        by_index((B, N_OUT), lambda s, i: gamma[i] * G[s, i]),
        G @ diag(gamma),
        numerical_gradient(lambda: gamma * X_hat + beta, X_hat, G),
    ),
    "bn-mean-jacobian": (
        by_index((B, N_OUT), lambda s, i: 1 / B),
        1 / B * one((B, 1)) @ one((1, N_OUT)),
        np.einsum("isi->si", jacobian(lambda: statistics(X_tilde)[0], X_tilde)),
    ),
    "bn-variance-jacobian": (
        by_index((B, N_OUT), lambda s, i: 2 / B * (X_tilde[s, i] - mean[i])),
        2 / B * (X_tilde - outer(one(B), mean)),
        np.einsum("isi->si", jacobian(lambda: statistics(X_tilde)[1], X_tilde)),
    ),
    "bn-jacobian": (
        by_index(
            (N_OUT, B, B),
            lambda i, r, s: ((r == s) - 1 / B - 1 / B * X_hat[r, i] * X_hat[s, i]) / root[i],
        ),
        np.stack([
            (eye(B) - 1 / B * outer(one(B), one(B)) - 1 / B * outer(x_hat, x_hat)) / r
            for x_hat, r in zip(X_hat.T, root, strict=True)
        ]),
        np.einsum("risi->irs", jacobian(lambda: normalized(X_tilde), X_tilde)),
    ),
    "bn-input": (
        by_index(
            (B, N_OUT),
            lambda s, i: gamma[i] / root[i] * (
                G[s, i]
                - 1 / B * sum(G[r, i] for r in range(B))
                - 1 / B * X_hat[s, i] * sum(G[r, i] * X_hat[r, i] for r in range(B))
            ),
        ),
        (
            G - 1 / B * one((B, 1)) @ one((1, B)) @ G - 1 / B * X_hat @ diag((G * X_hat).T @ one(B))
        ) @ diag(gamma / root),
        numerical_gradient(lambda: batch_norm(X_tilde, gamma, beta), X_tilde, G),
    ),
}  # fmt: skip


def gradient_equations():
    """Return the names of the report's equations that have a derivative before the equals sign."""
    bodies = re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", REPORT, re.DOTALL)
    for aligned in re.findall(r"\\begin\{align\}(.*?)\\end\{align\}", REPORT, re.DOTALL):
        bodies += re.split(r"\\\\\n", aligned)
    return {re.search(r"\\name\{([\w-]+)\}", body)[1] for body in bodies if r"\pd{" in body.split("&=")[0]}


def test_report_equations_of_gradients_are_all_checked():
    assert set(FORMULAS) == gradient_equations()


@pytest.mark.parametrize("name", FORMULAS)
def test_report_equation_equals_central_differences(name):
    index, matrix, numerical = FORMULAS[name]
    assert_gradient("index form", index, numerical)
    assert_gradient("matrix form", matrix, numerical)


def test_code_and_report_cite_each_others_equations():
    cited, named = re.findall(r"Eq\. \(([\w-]+)\)", CODE), re.findall(r"\\name\{([\w-]+)\}", REPORT)
    assert (set(cited) - set(named), set(FORMULAS) - set(cited)) == (set(), set())


def test_report_eigenvalues_of_batch_norm_are_right():
    """√(σ² + ε) times its Jacobian has 0 along 1, ε / (σ² + ε) along x̂, and 1 otherwise."""
    for jacobian_i, v in zip(FORMULAS["bn-jacobian"][1], variance, strict=True):
        eigenvalues = np.linalg.eigvalsh(np.sqrt(v + EPS) * jacobian_i)
        np.testing.assert_allclose(eigenvalues, [0, EPS / (v + EPS), *[1] * (B - 2)], atol=1e-14)


def test_report_code_is_in_the_modules():
    printed_code = re.findall(r"\\code\{(.+?)\}", REPORT.split(r"\begin{document}")[1])
    assert [code for code in printed_code if code not in CODE] == []


def test_worked_example_is_a_step_along_the_gradient():
    """Its gradients are central differences of the loss, and its parameters after the step follow from them."""
    found, x, t = worked_example.quantities(), worked_example.X[0], worked_example.T[0]
    parameters = {f"weight_{i}": weight.copy() for i, weight in enumerate(worked_example.WEIGHTS, 1)}
    parameters |= {"bias_1": np.zeros(2), "bias_2": np.zeros(2)}

    def loss():
        hidden = leaky_relu(linear(x, parameters["weight_1"], parameters["bias_1"]), worked_example.SLOPE)
        return cross_entropy(softmax(linear(hidden, parameters["weight_2"], parameters["bias_2"])), t)

    assert sorted(found["x_tilde_1"] > 0) == [False, True], "one hidden unit of each sign"
    assert loss() == pytest.approx(found["loss"], rel=1e-12)
    for name, value in parameters.items():
        assert_gradient(name, found[f"d_{name}"], numerical_gradient(loss, value, 1.0))
    for name, value in parameters.items():
        value -= worked_example.LEARNING_RATE * found[f"d_{name}"]
        np.testing.assert_allclose(found[f"{name}_after"], value, rtol=1e-13, err_msg=name)
    assert loss() == pytest.approx(found["loss_after"], rel=1e-12)


def test_report_mistakes_are_those_of_wrong_layers():
    """Whose tests find each of them."""
    names = re.findall(r"\\mistake\{(\w+)\}", REPORT)
    assert len(set(names)) == 17
    assert set(names) <= (WRONG_LAYERS | WRONG_BATCH_NORMS).keys()
