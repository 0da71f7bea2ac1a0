"""The report's gradient equations: each printed as it stands here, each right, each cited by the code.

An equation stands here three times: in LaTeX, as the report must print it; in index form, entry by entry; and in
matrix form. Both forms are held against central differences of the forward formulas, which are written out once, too.
"""

import ast
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
    """Return `{name: LaTeX}` of the report's equations, white space made one blank."""
    found = {}
    for body in re.findall(r"\\begin\{equation\}(.*?)\\end\{equation\}", REPORT, re.DOTALL):
        name = re.search(r"\\name\{([\w-]+)\}", body)
        found[name[1]] = " ".join(body.replace(name[0], "").split())
    for body in re.findall(r"\\begin\{align\}(.*?)\\end\{align\}", REPORT, re.DOTALL):
        for line in re.split(r"\\\\\n", body):
            name = re.search(r"\\name\{([\w-]+)\}", line)
            found[name[1]] = " ".join(line.replace(name[0], "").split())
    return found


EQUATIONS = equations()
# Those of a gradient have a derivative on the left of their first equals sign.
GRADIENTS = {name for name, body in EQUATIONS.items() if r"\pd{" in body.split("&=")[0]}


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

# Name: the index form as printed and as Python, the matrix form likewise, the central differences that both must equal.
FORMULAS = {
    "cross-entropy-jacobian": (
        r"\pd{L}{x^{(N)}_i} &= -\frac{t_i}{x^{(N)}_i}",
        lambda d: by_index((N_OUT,), lambda i: -d.t[i] / d.p[i]),
        r"\text{vector, } 10: & \pd{L}{\x^{(N)}} &= -\bm t \oslash \x^{(N)}",
        lambda d: -d.t / d.p,
        lambda d: jacobian(lambda: np.array(cross_entropy(d.p, d.t)), d.p),
    ),
    "softmax-jacobian": (
        r"\pd{x^{(N)}_i}{\tilde x^{(N)}_j} &= x^{(N)}_i \big(\delta_{ij} - x^{(N)}_j\big)",
        lambda d: by_index((N_OUT, N_OUT), lambda i, j: d.p[i] * (delta(i, j) - d.p[j])),
        r"\text{matrix, } 10 \times 10: & \pd{\x^{(N)}}{\xt^{(N)}} &= \diag\big(\x^{(N)}\big) - \x^{(N)} {\x^{(N)}}\T",
        lambda d: diag(d.p) - np.outer(d.p, d.p),
        lambda d: jacobian(lambda: softmax(d.x_tilde), d.x_tilde),
    ),
    "leaky-relu-jacobian": (
        r"\pd{x^{(l)}_i}{\tilde x^{(l)}_j} &= \delta_{ij} \big(\ind{\tilde x^{(l)}_i > 0} + a \ind{\tilde "
        r"x^{(l)}_i \le 0}\big)",
        lambda d: by_index(
            (N_OUT, N_OUT), lambda i, j: delta(i, j) * ((d.x_tilde[i] > 0) + SLOPE * (d.x_tilde[i] <= 0))
        ),
        r"\text{matrix, } d_l \times d_l: & \pd{\x^{(l)}}{\xt^{(l)}} &= \diag\big(\ind{\xt^{(l)} > 0} + a "
        r"\ind{\xt^{(l)} \le 0}\big)",
        lambda d: diag((d.x_tilde > 0) + SLOPE * (d.x_tilde <= 0)),
        lambda d: jacobian(lambda: leaky_relu(d.x_tilde), d.x_tilde),
    ),
    "linear-jacobian-input": (
        r"\pd{\tilde x^{(l)}_i}{x^{(l-1)}_j} &= W^{(l)}_{ij}",
        lambda d: by_index((N_OUT, N_IN), lambda i, j: d.w[i, j]),
        r"\text{matrix, } d_l \times d_{l-1}: & \pd{\xt^{(l)}}{\x^{(l-1)}} &= W^{(l)}",
        lambda d: d.w,
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.x_in),
    ),
    "linear-jacobian-weight": (
        r"\pd{\tilde x^{(l)}_i}{W^{(l)}_{jk}} &= \delta_{ij}\, x^{(l-1)}_k",
        lambda d: by_index((N_OUT, N_OUT, N_IN), lambda i, j, k: delta(i, j) * d.x_in[k]),
        r"\text{matrix, } d_l \times d_{l-1} \text{ for each } i: & \pd{\tilde x^{(l)}_i}{W^{(l)}} &= \bm e_i\, "
        r"{\x^{(l-1)}}\T",
        lambda d: np.stack([np.outer(eye(N_OUT)[i], d.x_in) for i in range(N_OUT)]),
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.w),
    ),
    "linear-jacobian-bias": (
        r"\pd{\tilde x^{(l)}_i}{b^{(l)}_j} &= \delta_{ij}",
        lambda d: by_index((N_OUT, N_OUT), delta),
        r"\text{matrix, } d_l \times d_l: & \pd{\xt^{(l)}}{\bm b^{(l)}} &= I",
        lambda d: eye(N_OUT),
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.b),
    ),
    # Part b: what arrives is ∂L/∂x = g, for the loss L = Σᵢ gᵢ xᵢ of any network above.
    "softmax-backward": (
        r"\pd{L}{\tilde x^{(N)}_j} &= x^{(N)}_j \Big(\pd{L}{x^{(N)}_j} - \sum_i \pd{L}{x^{(N)}_i}\, x^{(N)}_i\Big)",
        lambda d: by_index((N_OUT,), lambda j: d.p[j] * (d.g[j] - sum(d.g[i] * d.p[i] for i in range(N_OUT)))),
        r"\text{vector, } 10: & \pd{L}{\xt^{(N)}} &= \big(\diag\big(\x^{(N)}\big) - \x^{(N)} {\x^{(N)}}\T\big)\, "
        r"\pd{L}{\x^{(N)}}",
        lambda d: (diag(d.p) - np.outer(d.p, d.p)) @ d.g,
        lambda d: numerical_gradient(lambda: softmax(d.x_tilde), d.x_tilde, d.g),
    ),
    "softmax-cross-entropy": (
        r"\pd{L}{\tilde x^{(N)}_j} &= x^{(N)}_j - t_j",
        lambda d: by_index((N_OUT,), lambda j: d.p[j] - d.t[j]),
        r"\text{vector, } 10: & \pd{L}{\xt^{(N)}} &= \x^{(N)} - \bm t",
        lambda d: d.p - d.t,
        lambda d: numerical_gradient(lambda: cross_entropy(softmax(d.x_tilde), d.t), d.x_tilde, 1.0),
    ),
    "leaky-relu-backward": (
        r"\pd{L}{\tilde x^{(l)}_i} &= \pd{L}{x^{(l)}_i} \big(\ind{\tilde x^{(l)}_i > 0} + a \ind{\tilde x^{(l)}_i "
        r"\le 0}\big)",
        lambda d: by_index((N_OUT,), lambda i: d.g[i] * ((d.x_tilde[i] > 0) + SLOPE * (d.x_tilde[i] <= 0))),
        r"\text{vector, } d_l: & \pd{L}{\xt^{(l)}} &= \pd{L}{\x^{(l)}} \odot \big(\ind{\xt^{(l)} > 0} + a "
        r"\ind{\xt^{(l)} \le 0}\big)",
        lambda d: d.g * ((d.x_tilde > 0) + SLOPE * (d.x_tilde <= 0)),
        lambda d: numerical_gradient(lambda: leaky_relu(d.x_tilde), d.x_tilde, d.g),
    ),
    "linear-input": (
        r"\pd{L}{x^{(l-1)}_j} &= \sum_i \pd{L}{\tilde x^{(l)}_i}\, W^{(l)}_{ij}",
        lambda d: by_index((N_IN,), lambda j: sum(d.g[i] * d.w[i, j] for i in range(N_OUT))),
        r"\text{vector, } d_{l-1}: & \pd{L}{\x^{(l-1)}} &= {W^{(l)}}\T \pd{L}{\xt^{(l)}}",
        lambda d: d.w.T @ d.g,
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.x_in, d.g),
    ),
    "linear-weight": (
        r"\pd{L}{W^{(l)}_{jk}} &= \pd{L}{\tilde x^{(l)}_j}\, x^{(l-1)}_k",
        lambda d: by_index((N_OUT, N_IN), lambda j, k: d.g[j] * d.x_in[k]),
        r"\text{matrix, } d_l \times d_{l-1}: & \pd{L}{W^{(l)}} &= \pd{L}{\xt^{(l)}}\, {\x^{(l-1)}}\T",
        lambda d: d.g[:, None] @ d.x_in[None, :],
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.w, d.g),
    ),
    "linear-bias": (
        r"\pd{L}{b^{(l)}_j} &= \pd{L}{\tilde x^{(l)}_j}",
        lambda d: by_index((N_OUT,), lambda j: d.g[j]),
        r"\text{vector, } d_l: & \pd{L}{\bm b^{(l)}} &= \pd{L}{\xt^{(l)}}",
        lambda d: d.g,
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.b, d.g),
    ),
    # Part c: G or Δ is what arrives.
    "batch-cross-entropy": (
        r"\pd{L}{x^s_i} &= -\frac{t^s_i}{B\, x^s_i}",
        lambda d: by_index((B, N_OUT), lambda s, i: -d.T[s, i] / (B * d.P[s, i])),
        r"\text{matrix, } B \times 10: & \pd{L}{X} &= -T \oslash (B X)",
        lambda d: -d.T / (B * d.P),
        lambda d: numerical_gradient(lambda: cross_entropy(d.P, d.T), d.P, 1.0),
    ),
    "batch-softmax": (
        r"\pd{L}{\tilde x^s_j} &= x^s_j \Big(G^s_j - \sum_i G^s_i x^s_i\Big)",
        lambda d: by_index(
            (B, N_OUT),
            lambda s, j: d.P[s, j] * (d.G[s, j] - sum(d.G[s, i] * d.P[s, i] for i in range(N_OUT))),
        ),
        r"\text{matrix, } B \times 10: & \pd{L}{\tilde X} &= X \odot \big(G - (G \odot X)\, \one_{10} \one_{10}\T\big)",
        lambda d: d.P * (d.G - (d.G * d.P) @ one((N_OUT, 1)) @ one((1, N_OUT))),
        lambda d: numerical_gradient(lambda: softmax(d.X_tilde), d.X_tilde, d.G),
    ),
    "batch-softmax-cross-entropy": (
        r"\pd{L}{\tilde x^s_j} &= \frac{x^s_j - t^s_j}{B}",
        lambda d: by_index((B, N_OUT), lambda s, j: (d.P[s, j] - d.T[s, j]) / B),
        r"\text{matrix, } B \times 10: & \pd{L}{\tilde X} &= \frac1B (X - T)",
        lambda d: 1 / B * (d.P - d.T),
        lambda d: numerical_gradient(lambda: batch_loss(d), d.X_tilde, 1.0),
    ),
    "batch-leaky-relu": (
        r"\pd{L}{\tilde x^s_i} &= G^s_i \big(\ind{\tilde x^s_i > 0} + a \ind{\tilde x^s_i \le 0}\big)",
        lambda d: by_index(
            (B, N_OUT), lambda s, i: d.G[s, i] * ((d.X_tilde[s, i] > 0) + SLOPE * (d.X_tilde[s, i] <= 0))
        ),
        r"\text{matrix, } B \times d_l: & \pd{L}{\tilde X} &= G \odot \big(\ind{\tilde X > 0} + a \ind{\tilde X "
        r"\le 0}\big)",
        lambda d: d.G * ((d.X_tilde > 0) + SLOPE * (d.X_tilde <= 0)),
        lambda d: numerical_gradient(lambda: leaky_relu(d.X_tilde), d.X_tilde, d.G),
    ),
    "batch-linear-input": (
        r"\pd{L}{x^{(l-1)s}_j} &= \sum_i \Delta^s_i\, W_{ij}",
        lambda d: by_index((B, N_IN), lambda s, j: sum(d.G[s, i] * d.w[i, j] for i in range(N_OUT))),
        r"\text{matrix, } B \times d_{l-1}: & \pd{L}{X^{(l-1)}} &= \Delta\, W",
        lambda d: d.G @ d.w,
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.X_in, d.G),
    ),
    "batch-linear-weight": (
        r"\pd{L}{W_{jk}} &= \sum_s \Delta^s_j\, x^{(l-1)s}_k",
        lambda d: by_index((N_OUT, N_IN), lambda j, k: sum(d.G[s, j] * d.X_in[s, k] for s in range(B))),
        r"\text{matrix, } d_l \times d_{l-1}: & \pd{L}{W} &= \Delta\T X^{(l-1)}",
        lambda d: d.G.T @ d.X_in,
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.w, d.G),
    ),
    "batch-linear-bias": (
        r"\pd{L}{b_j} &= \sum_s \Delta^s_j",
        lambda d: by_index((N_OUT,), lambda j: sum(d.G[s, j] for s in range(B))),
        r"\text{vector, } d_l: & \pd{L}{\bm b} &= \Delta\T \one_B",
        lambda d: d.G.T @ one(B),
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.b, d.G),
    ),
    # Question 3.2 a. The batch is X̃ here; γ and β have N_OUT neurons.
    "bn-beta": (
        r"\pd{L}{\beta_i} &= \sum_s G^s_i",
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] for s in range(B))),
        r"\text{vector, } d: & \pd{L}{\bm\beta} &= G\T \one_B",
        lambda d: d.G.T @ one(B),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.beta, d.G),
    ),
    "bn-gamma": (
        r"\pd{L}{\gamma_i} &= \sum_s G^s_i\, \hat x^s_i",
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] * normalized(d.X_tilde)[s, i] for s in range(B))),
        r"\text{vector, } d: & \pd{L}{\bm\gamma} &= (G \odot \hat X)\T \one_B",
        lambda d: (d.G * normalized(d.X_tilde)).T @ one(B),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.gamma, d.G),
    ),
    "bn-normalized": (
        r"\pd{L}{\hat x^s_i} &= \gamma_i\, G^s_i",
        lambda d: by_index((B, N_OUT), lambda s, i: d.gamma[i] * d.G[s, i]),
        r"\text{matrix, } B \times d: & \pd{L}{\hat X} &= G \diag(\bm\gamma)",
        lambda d: d.G @ diag(d.gamma),
        # x̂ is called P here: any array will do.
        lambda d: numerical_gradient(lambda: d.gamma * d.P + d.beta, d.P, d.G),
    ),
    "bn-mean-jacobian": (
        r"\pd{\mu_i}{x^s_i} &= \frac1B",
        lambda d: by_index((B, N_OUT), lambda s, i: 1 / B),
        r"\text{matrix, } B \times d: & \pd{\bm\mu}{X} &= \frac1B \one_B \one_d\T",
        lambda d: 1 / B * one((B, 1)) @ one((1, N_OUT)),
        lambda d: np.einsum("isi->si", jacobian(lambda: statistics(d.X_tilde)[0], d.X_tilde)),
    ),
    "bn-variance-jacobian": (
        r"\pd{\sigma^2_i}{x^s_i} &= \frac2B (x^s_i - \mu_i)",
        lambda d: by_index((B, N_OUT), lambda s, i: 2 / B * (d.X_tilde[s, i] - statistics(d.X_tilde)[0][i])),
        r"\text{matrix, } B \times d: & \pd{\bm\sigma^2}{X} &= \frac2B \big(X - \one_B \bm\mu\T\big)",
        lambda d: 2 / B * (d.X_tilde - np.outer(one(B), statistics(d.X_tilde)[0])),
        lambda d: np.einsum("isi->si", jacobian(lambda: statistics(d.X_tilde)[1], d.X_tilde)),
    ),
    "bn-jacobian": (
        r"\pd{\hat x^r_i}{x^s_i} &= \frac{1}{\sqrt{\sigma^2_i + \epsilon}} \Big(\delta_{rs} - \frac1B - \frac1B "
        r"\hat x^r_i \hat x^s_i\Big)",
        lambda d: by_index(
            (N_OUT, B, B),
            lambda i, r, s: (
                1
                / np.sqrt(statistics(d.X_tilde)[1][i] + EPS)
                * (delta(r, s) - 1 / B - 1 / B * normalized(d.X_tilde)[r, i] * normalized(d.X_tilde)[s, i])
            ),
        ),
        r"\text{matrix, } B \times B \text{ for each } i: & \pd{\hat{\bm x}_i}{\bm x_i} &= "
        r"\frac{1}{\sqrt{\sigma^2_i + \epsilon}} \Big(I - \frac1B \one_B \one_B\T - \frac1B \hat{\bm x}_i \hat{\bm "
        r"x}_i\T\Big)",
        lambda d: np.stack(
            [
                (eye(B) - 1 / B * np.outer(one(B), one(B)) - 1 / B * np.outer(x_hat, x_hat)) / np.sqrt(variance + EPS)
                for x_hat, variance in zip(normalized(d.X_tilde).T, statistics(d.X_tilde)[1], strict=True)
            ]
        ),
        lambda d: np.einsum("risi->irs", jacobian(lambda: normalized(d.X_tilde), d.X_tilde)),
    ),
    "bn-input": (
        r"\pd{L}{x^s_i} &= \frac{\gamma_i}{\sqrt{\sigma^2_i + \epsilon}} \Big(G^s_i - \frac1B \pd{L}{\beta_i} - "
        r"\frac1B \hat x^s_i \pd{L}{\gamma_i}\Big)",
        lambda d: by_index(
            (B, N_OUT),
            lambda s, i: (
                d.gamma[i]
                / np.sqrt(statistics(d.X_tilde)[1][i] + EPS)
                * (
                    d.G[s, i]
                    - 1 / B * FORMULAS["bn-beta"][1](d)[i]
                    - 1 / B * normalized(d.X_tilde)[s, i] * FORMULAS["bn-gamma"][1](d)[i]
                )
            ),
        ),
        r"\text{matrix, } B \times d: & \pd{L}{X} &= \Big(G - \frac1B \one_B \one_B\T G - \frac1B \hat X "
        r"\diag\big((G \odot \hat X)\T \one_B\big)\Big) \diag\big(\bm\gamma \oslash \sqrt{\bm\sigma^2 + "
        r"\epsilon}\big)",
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

# What is not a gradient, as printed; the functions above compute it.
FORWARD = {
    "linear-forward": r"\tilde x^{(l)}_i &= \sum_j W^{(l)}_{ij} x^{(l-1)}_j + b^{(l)}_i, \quad "
    r"\xt^{(l)} = W^{(l)} \x^{(l-1)} + \bm b^{(l)}, \quad W^{(l)} \in \mathbb{R}^{d_l \times d_{l-1}}",
    "leaky-relu-forward": r"x^{(l)}_i &= \max(0, \tilde x^{(l)}_i) + a \min(0, \tilde x^{(l)}_i), \quad l < N",
    "softmax-forward": r"x^{(N)}_i &= \frac{\exp \tilde x^{(N)}_i}{\sum_j \exp \tilde x^{(N)}_j}",
    "cross-entropy-forward": r"L &= -\sum_i t_i \log x^{(N)}_i",
    "batch-linear-forward": r"\tilde X^{(l)} &= X^{(l-1)} {W^{(l)}}\T + \one_B\, {\bm b^{(l)}}\T",
    "batch-cross-entropy-forward": r"L &= -\frac1B \sum_s \sum_i t^s_i \log x^s_i",
    "bn-statistics": r"\mu_i &= \frac1B \sum_s x^s_i, \qquad \sigma^2_i = \frac1B \sum_s (x^s_i - \mu_i)^2",
    "bn-forward": r"\hat x^s_i &= \frac{x^s_i - \mu_i}{\sqrt{\sigma^2_i + \epsilon}}, \qquad "
    r"y^s_i = \gamma_i \hat x^s_i + \beta_i",
}

# The docstrings that cite each equation: those of the code that computes it.
CITED_BY = {
    "LinearModule": {"linear-forward"},
    "LinearModule.forward": {"batch-linear-forward"},
    "LinearModule.backward": {
        "batch-linear-input", "batch-linear-weight", "batch-linear-bias", "linear-input", "linear-weight",
        "linear-bias", "linear-jacobian-input", "linear-jacobian-weight", "linear-jacobian-bias",
    },
    "LeakyReLUModule": {"leaky-relu-forward"},
    "LeakyReLUModule.backward": {"batch-leaky-relu", "leaky-relu-backward", "leaky-relu-jacobian"},
    "SoftMaxModule": {"softmax-forward", "batch-softmax-cross-entropy", "softmax-cross-entropy"},
    "SoftMaxModule.backward": {"batch-softmax", "softmax-backward", "softmax-jacobian"},
    "CrossEntropyModule": {"batch-cross-entropy-forward"},
    "CrossEntropyModule.backward": {"batch-cross-entropy", "cross-entropy-jacobian"},
    "custom_batchnorm": {"bn-statistics", "bn-forward"},
    "CustomBatchNormManualFunction.backward": {
        "bn-beta", "bn-gamma", "bn-input", "bn-normalized", "bn-jacobian", "bn-mean-jacobian", "bn-variance-jacobian",
    },
}  # fmt: skip
# Where several stand together: what is on the left of each.
CITED_BESIDE = {
    "batch-linear-input": "dL/dX = dL/dX̃ W",
    "batch-linear-weight": "dL/dW = (dL/dX̃)ᵀ X",
    "batch-linear-bias": "dL/db = Σₛ dL/dx̃ˢ",
    "bn-beta": "dL/dβᵢ = Σₛ dL/dyᵢˢ",
    "bn-gamma": "dL/dγᵢ = Σₛ dL/dyᵢˢ x̂ᵢˢ",
    "bn-input": "dL/dxᵢˢ = γᵢ / √(σᵢ² + ε) · (dL/dyᵢˢ − (1/B) dL/dβᵢ − (1/B) x̂ᵢˢ dL/dγᵢ)",
}

CITATION = re.compile(r"Eq\. \(([\w-]+)\)")


def printed(name):
    """Return the lines that the report prints of an equation, its index form and its matrix form with their shape."""
    body = EQUATIONS[name].replace(r"\begin{aligned}", "").replace(r"\end{aligned}", "")
    index, matrix = re.split(r"\\\\ &|& \\quad\s+&", body)  # on two lines, or on one
    return [" ".join(line.split()) for line in (index.replace(r"&\text{index:} &", ""), matrix)]


def test_every_equation_of_the_report_is_checked_here():
    assert set(FORMULAS) == GRADIENTS
    assert {name: EQUATIONS[name] for name in EQUATIONS if name not in GRADIENTS} == FORWARD


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_is_printed_as_it_is_checked_and_equals_central_differences(name):
    index_tex, index, matrix_tex, matrix, numerical = FORMULAS[name]
    assert printed(name) == [index_tex, matrix_tex], "the report prints another formula than the one below it here"
    draw = Draw()
    expected = numerical(draw)
    assert_close(f"{name}, index form", index(draw), expected, finite_differences=True)
    assert_close(f"{name}, matrix form", matrix(draw), expected, finite_differences=True)


def test_every_equation_that_the_code_cites_is_in_the_report_and_every_gradient_is_cited_by_its_code():
    found = {}
    for name, code in CODE.items():
        module = ast.parse(code)
        found[Path(name).stem] = module
        for owner in (node for node in module.body if isinstance(node, ast.ClassDef)):
            found[owner.name] = owner
            found |= {f"{owner.name}.{node.name}": node for node in owner.body if isinstance(node, ast.FunctionDef)}
    cited = {owner: set(CITATION.findall(ast.get_docstring(node) or "")) for owner, node in found.items()}
    assert {owner: names for owner, names in cited.items() if names} == CITED_BY
    everywhere = set().union(*CITED_BY.values())
    assert everywhere - set(EQUATIONS) == set()
    assert GRADIENTS - everywhere == set()
    for name, formula in CITED_BESIDE.items():
        assert re.search(rf"^ *{re.escape(formula)}  +Eq\. \({name}\)$", "\n".join(CODE.values()), re.MULTILINE), name


def test_what_epsilon_leaves_of_a_gradient_is_as_the_report_says():
    """Batch norm's Jacobian takes all of a gradient along 1, and along x̂ leaves the share ε / (σ² + ε)."""
    draw = Draw()
    jacobians, (_, variance) = FORMULAS["bn-jacobian"][3](draw), statistics(draw.X_tilde)
    for jacobian_i, x_hat, v in zip(jacobians, normalized(draw.X_tilde).T, variance, strict=True):
        scaled = np.sqrt(v + EPS) * jacobian_i
        np.testing.assert_allclose(scaled @ one(B), 0, atol=1e-15)
        np.testing.assert_allclose(scaled @ x_hat, EPS / (v + EPS) * x_hat, rtol=1e-13)
        np.testing.assert_allclose(x_hat @ x_hat, B * v / (v + EPS))


def test_code_that_the_report_prints_stands_in_the_modules():
    printed_code = re.findall(r"\\code\{(.+?)\}", REPORT.split(r"\begin{document}")[1])
    assert len(printed_code) == 16
    for code in printed_code:
        assert code in "".join(CODE.values()), f"the report prints {code}, which is in neither module"


def test_worked_example_follows_from_the_equations():
    """By the formulas of one example, and not by modules.py."""
    w1, w2, x, t, a = *worked_example.WEIGHTS, worked_example.X[0], worked_example.T[0], worked_example.SLOPE
    expected = {"x_tilde_1": w1 @ x}
    slope_1 = np.where(expected["x_tilde_1"] > 0, 1, a)
    assert sorted(slope_1) == [a, 1], "one hidden unit of each sign"
    expected["x_1"] = slope_1 * expected["x_tilde_1"]
    expected["x_tilde_2"] = w2 @ expected["x_1"]
    expected["x_2"] = softmax(expected["x_tilde_2"])
    expected["loss"] = -np.log(expected["x_2"][1])
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


def test_names_of_equations_are_unique():
    names = re.findall(r"\\name\{([\w-]+)\}", REPORT)
    assert len(names) == len(set(names)) == len(EQUATIONS)


@pytest.mark.parametrize("mistake", WRONG)
def test_mistake_of_the_reports_table_is_found(mistake):
    name, wrong = WRONG[mistake]
    draw = Draw(n_in=N_OUT if mistake in OF_A_SQUARE_LAYER else N_IN)
    with pytest.raises(AssertionError, match=name):
        assert_close(name, wrong(draw), FORMULAS[name][4](draw), finite_differences=True)


def test_table_of_mistakes_lists_those_that_are_made_here():
    assert re.findall(r"\\mistake\{(.*?)\}", REPORT) == list(WRONG)
