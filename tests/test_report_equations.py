"""The report's gradient equations: each printed as it stands here, each right, each cited by the code.

An equation stands here three times: in LaTeX, as the report must print it; in index form, entry by entry; and in
matrix form. Both forms are held against central differences of the forward formulas, which are written out once, too.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from gradcheck import assert_close, numerical_gradient

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

    def __init__(self):
        rng = np.random.default_rng(1)
        self.w, self.b = rng.normal(size=(N_OUT, N_IN)), rng.normal(size=N_OUT)
        self.x_in, self.X_in = rng.normal(size=N_IN), rng.normal(size=(B, N_IN))
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
        r"-\frac{t_i}{x^{(N)}_i}",
        lambda d: by_index((N_OUT,), lambda i: -d.t[i] / d.p[i]),
        r"-\bm t \oslash \x^{(N)}",
        lambda d: -d.t / d.p,
        lambda d: jacobian(lambda: np.array(cross_entropy(d.p, d.t)), d.p),
    ),
    "softmax-jacobian": (
        r"x^{(N)}_i \big(\delta_{ij} - x^{(N)}_j\big)",
        lambda d: by_index((N_OUT, N_OUT), lambda i, j: d.p[i] * (delta(i, j) - d.p[j])),
        r"\diag\big(\x^{(N)}\big) - \x^{(N)} {\x^{(N)}}\T",
        lambda d: diag(d.p) - np.outer(d.p, d.p),
        lambda d: jacobian(lambda: softmax(d.x_tilde), d.x_tilde),
    ),
    "leaky-relu-jacobian": (
        r"\delta_{ij} \big(\ind{\tilde x^{(l)}_i > 0} + a \ind{\tilde x^{(l)}_i \le 0}\big)",
        lambda d: by_index(
            (N_OUT, N_OUT), lambda i, j: delta(i, j) * ((d.x_tilde[i] > 0) + SLOPE * (d.x_tilde[i] <= 0))
        ),
        r"\diag\big(\ind{\xt^{(l)} > 0} + a \ind{\xt^{(l)} \le 0}\big)",
        lambda d: diag((d.x_tilde > 0) + SLOPE * (d.x_tilde <= 0)),
        lambda d: jacobian(lambda: leaky_relu(d.x_tilde), d.x_tilde),
    ),
    "linear-jacobian-input": (
        r"W^{(l)}_{ij}",
        lambda d: by_index((N_OUT, N_IN), lambda i, j: d.w[i, j]),
        r"W^{(l)}",
        lambda d: d.w,
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.x_in),
    ),
    "linear-jacobian-weight": (
        r"\delta_{ij}\, x^{(l-1)}_k",
        lambda d: by_index((N_OUT, N_OUT, N_IN), lambda i, j, k: delta(i, j) * d.x_in[k]),
        r"\bm e_i\, {\x^{(l-1)}}\T",
        lambda d: np.stack([np.outer(eye(N_OUT)[i], d.x_in) for i in range(N_OUT)]),
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.w),
    ),
    "linear-jacobian-bias": (
        r"\delta_{ij}",
        lambda d: by_index((N_OUT, N_OUT), delta),
        r"I",
        lambda d: eye(N_OUT),
        lambda d: jacobian(lambda: linear(d.x_in, d.w, d.b), d.b),
    ),
    # Part b: what arrives is ∂L/∂x = g, for the loss L = Σᵢ gᵢ xᵢ of any network above.
    "softmax-backward": (
        r"x^{(N)}_j \Big(\pd{L}{x^{(N)}_j} - \sum_i \pd{L}{x^{(N)}_i}\, x^{(N)}_i\Big)",
        lambda d: by_index((N_OUT,), lambda j: d.p[j] * (d.g[j] - sum(d.g[i] * d.p[i] for i in range(N_OUT)))),
        r"\big(\diag\big(\x^{(N)}\big) - \x^{(N)} {\x^{(N)}}\T\big)\, \pd{L}{\x^{(N)}}",
        lambda d: (diag(d.p) - np.outer(d.p, d.p)) @ d.g,
        lambda d: numerical_gradient(lambda: softmax(d.x_tilde), d.x_tilde, d.g),
    ),
    "softmax-cross-entropy": (
        r"x^{(N)}_j - t_j",
        lambda d: by_index((N_OUT,), lambda j: d.p[j] - d.t[j]),
        r"\x^{(N)} - \bm t",
        lambda d: d.p - d.t,
        lambda d: numerical_gradient(lambda: cross_entropy(softmax(d.x_tilde), d.t), d.x_tilde, 1.0),
    ),
    "leaky-relu-backward": (
        r"\pd{L}{x^{(l)}_i} \big(\ind{\tilde x^{(l)}_i > 0} + a \ind{\tilde x^{(l)}_i \le 0}\big)",
        lambda d: by_index((N_OUT,), lambda i: d.g[i] * ((d.x_tilde[i] > 0) + SLOPE * (d.x_tilde[i] <= 0))),
        r"\pd{L}{\x^{(l)}} \odot \big(\ind{\xt^{(l)} > 0} + a \ind{\xt^{(l)} \le 0}\big)",
        lambda d: d.g * ((d.x_tilde > 0) + SLOPE * (d.x_tilde <= 0)),
        lambda d: numerical_gradient(lambda: leaky_relu(d.x_tilde), d.x_tilde, d.g),
    ),
    "linear-input": (
        r"\sum_i \pd{L}{\tilde x^{(l)}_i}\, W^{(l)}_{ij}",
        lambda d: by_index((N_IN,), lambda j: sum(d.g[i] * d.w[i, j] for i in range(N_OUT))),
        r"{W^{(l)}}\T \pd{L}{\xt^{(l)}}",
        lambda d: d.w.T @ d.g,
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.x_in, d.g),
    ),
    "linear-weight": (
        r"\pd{L}{\tilde x^{(l)}_i}\, x^{(l-1)}_j",
        lambda d: by_index((N_OUT, N_IN), lambda i, j: d.g[i] * d.x_in[j]),
        r"\pd{L}{\xt^{(l)}}\, {\x^{(l-1)}}\T",
        lambda d: d.g[:, None] @ d.x_in[None, :],
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.w, d.g),
    ),
    "linear-bias": (
        r"\pd{L}{\tilde x^{(l)}_i}",
        lambda d: by_index((N_OUT,), lambda i: d.g[i]),
        r"\pd{L}{\xt^{(l)}}",
        lambda d: d.g,
        lambda d: numerical_gradient(lambda: linear(d.x_in, d.w, d.b), d.b, d.g),
    ),
    # Part c: G or Δ is what arrives.
    "batch-cross-entropy": (
        r"-\frac{t^s_i}{B\, x^s_i}",
        lambda d: by_index((B, N_OUT), lambda s, i: -d.T[s, i] / (B * d.P[s, i])),
        r"-T \oslash (B X)",
        lambda d: -d.T / (B * d.P),
        lambda d: numerical_gradient(lambda: cross_entropy(d.P, d.T), d.P, 1.0),
    ),
    "batch-softmax": (
        r"x^s_j \Big(G^s_j - \sum_i G^s_i x^s_i\Big)",
        lambda d: by_index(
            (B, N_OUT),
            lambda s, j: d.P[s, j] * (d.G[s, j] - sum(d.G[s, i] * d.P[s, i] for i in range(N_OUT))),
        ),
        r"X \odot \big(G - (G \odot X)\, \one \one\T\big)",
        lambda d: d.P * (d.G - (d.G * d.P) @ one((N_OUT, 1)) @ one((1, N_OUT))),
        lambda d: numerical_gradient(lambda: softmax(d.X_tilde), d.X_tilde, d.G),
    ),
    "batch-softmax-cross-entropy": (
        r"\frac{x^s_j - t^s_j}{B}",
        lambda d: by_index((B, N_OUT), lambda s, j: (d.P[s, j] - d.T[s, j]) / B),
        r"\frac1B (X - T)",
        lambda d: 1 / B * (d.P - d.T),
        lambda d: numerical_gradient(lambda: batch_loss(d), d.X_tilde, 1.0),
    ),
    "batch-leaky-relu": (
        r"G^s_i \big(\ind{\tilde x^s_i > 0} + a \ind{\tilde x^s_i \le 0}\big)",
        lambda d: by_index(
            (B, N_OUT), lambda s, i: d.G[s, i] * ((d.X_tilde[s, i] > 0) + SLOPE * (d.X_tilde[s, i] <= 0))
        ),
        r"G \odot \big(\ind{\tilde X > 0} + a \ind{\tilde X \le 0}\big)",
        lambda d: d.G * ((d.X_tilde > 0) + SLOPE * (d.X_tilde <= 0)),
        lambda d: numerical_gradient(lambda: leaky_relu(d.X_tilde), d.X_tilde, d.G),
    ),
    "batch-linear-input": (
        r"\sum_i \Delta^s_i W_{ij}",
        lambda d: by_index((B, N_IN), lambda s, j: sum(d.G[s, i] * d.w[i, j] for i in range(N_OUT))),
        r"\Delta\, W",
        lambda d: d.G @ d.w,
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.X_in, d.G),
    ),
    "batch-linear-weight": (
        r"\sum_s \Delta^s_i x^s_j",
        lambda d: by_index((N_OUT, N_IN), lambda i, j: sum(d.G[s, i] * d.X_in[s, j] for s in range(B))),
        r"\Delta\T X",
        lambda d: d.G.T @ d.X_in,
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.w, d.G),
    ),
    "batch-linear-bias": (
        r"\sum_s \Delta^s_i",
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] for s in range(B))),
        r"\Delta\T \one",
        lambda d: d.G.T @ one(B),
        lambda d: numerical_gradient(lambda: linear(d.X_in, d.w, d.b), d.b, d.G),
    ),
    # Question 3.2 a. The batch is X̃ here; γ and β have N_OUT neurons.
    "bn-beta": (
        r"\sum_s G^s_i",
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] for s in range(B))),
        r"G\T \one",
        lambda d: d.G.T @ one(B),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.beta, d.G),
    ),
    "bn-gamma": (
        r"\sum_s G^s_i\, \hat x^s_i",
        lambda d: by_index((N_OUT,), lambda i: sum(d.G[s, i] * normalized(d.X_tilde)[s, i] for s in range(B))),
        r"(G \odot \hat X)\T \one",
        lambda d: (d.G * normalized(d.X_tilde)).T @ one(B),
        lambda d: numerical_gradient(lambda: batch_norm(d.X_tilde, d.gamma, d.beta), d.gamma, d.G),
    ),
    "bn-normalized": (
        r"\gamma_i\, G^s_i",
        lambda d: by_index((B, N_OUT), lambda s, i: d.gamma[i] * d.G[s, i]),
        r"G \diag(\bm\gamma)",
        lambda d: d.G @ diag(d.gamma),
        # x̂ is called P here: any array will do.
        lambda d: numerical_gradient(lambda: d.gamma * d.P + d.beta, d.P, d.G),
    ),
    "bn-mean-jacobian": (
        r"\frac1B",
        lambda d: by_index((B, N_OUT), lambda s, i: 1 / B),
        r"\frac1B \one \one\T",
        lambda d: 1 / B * one((B, 1)) @ one((1, N_OUT)),
        lambda d: np.einsum("isi->si", jacobian(lambda: statistics(d.X_tilde)[0], d.X_tilde)),
    ),
    "bn-variance-jacobian": (
        r"\frac2B (x^s_i - \mu_i)",
        lambda d: by_index((B, N_OUT), lambda s, i: 2 / B * (d.X_tilde[s, i] - statistics(d.X_tilde)[0][i])),
        r"\frac2B \big(X - \one \bm\mu\T\big)",
        lambda d: 2 / B * (d.X_tilde - np.outer(one(B), statistics(d.X_tilde)[0])),
        lambda d: np.einsum("isi->si", jacobian(lambda: statistics(d.X_tilde)[1], d.X_tilde)),
    ),
    "bn-jacobian": (
        r"\frac{1}{\sqrt{\sigma^2_i + \epsilon}} \Big(\delta_{rs} - \frac1B - \frac1B \hat x^r_i \hat x^s_i\Big)",
        lambda d: by_index(
            (N_OUT, B, B),
            lambda i, r, s: (
                1
                / np.sqrt(statistics(d.X_tilde)[1][i] + EPS)
                * (delta(r, s) - 1 / B - 1 / B * normalized(d.X_tilde)[r, i] * normalized(d.X_tilde)[s, i])
            ),
        ),
        r"\frac{1}{\sqrt{\sigma^2_i + \epsilon}} \Big(I - \frac1B \one \one\T - \frac1B \hat{\bm x}_i "
        r"\hat{\bm x}_i\T\Big)",
        lambda d: np.stack(
            [
                (eye(B) - 1 / B * np.outer(one(B), one(B)) - 1 / B * np.outer(x_hat, x_hat)) / np.sqrt(variance + EPS)
                for x_hat, variance in zip(normalized(d.X_tilde).T, statistics(d.X_tilde)[1], strict=True)
            ]
        ),
        lambda d: np.einsum("risi->irs", jacobian(lambda: normalized(d.X_tilde), d.X_tilde)),
    ),
    "bn-input": (
        r"\frac{\gamma_i}{\sqrt{\sigma^2_i + \epsilon}} \Big(G^s_i - \frac1B \pd{L}{\beta_i} - \frac1B \hat "
        r"x^s_i \pd{L}{\gamma_i}\Big)",
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
        r"\Big(G - \frac1B \one \one\T G - \frac1B \hat X \diag\big((G \odot \hat X)\T \one\big)\Big) "
        r"\diag\big(\bm\gamma \oslash \sqrt{\bm\sigma^2 + \epsilon}\big)",
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

# The report's table of mistakes: its name there, the equation that it is made in, and what it gives instead.
WRONG = {
    "An index used twice": ("batch-softmax", lambda d: d.G * d.P * (1 - d.P)),
    "Cross terms summed over the batch": ("batch-softmax", lambda d: d.P * (d.G - (d.G * d.P).sum(axis=0))),
    "Division by the batch forgotten": ("batch-softmax-cross-entropy", lambda d: d.P - d.T),
    "Division by the batch done twice": ("batch-linear-weight", lambda d: d.G.T @ d.X_in / B),
    "The bias gradient written as a matrix": ("batch-linear-bias", lambda d: d.G),
    "The bias gradient averaged": ("batch-linear-bias", lambda d: d.G.mean(axis=0)),
    "The weight gradient transposed": ("batch-linear-weight", lambda d: d.X_in.T @ d.G),
    "The weight not transposed": ("linear-input", lambda d: (d.w @ np.resize(d.g, N_IN))[: d.w.shape[1]]),
    "The slope lost on the way back": ("batch-leaky-relu", lambda d: d.G * (d.X_tilde > 0)),
    "The slope on both sides": ("batch-leaky-relu", lambda d: d.G * ((d.X_tilde > 0) + SLOPE)),
    "The sum over the batch lost": (
        "bn-input",
        lambda d: (
            d.G * d.gamma / np.sqrt(statistics(d.X_tilde)[1] + EPS) * (1 - 1 / B - normalized(d.X_tilde) ** 2 / B)
        ),
    ),
    "The mean taken for a constant": (
        "bn-input",
        lambda d: (
            (d.G - normalized(d.X_tilde) * (d.G * normalized(d.X_tilde)).mean(axis=0))
            * (d.gamma / np.sqrt(statistics(d.X_tilde)[1] + EPS))
        ),
    ),
    "The variance taken for a constant": (
        "bn-input",
        lambda d: (d.G - d.G.mean(axis=0)) * d.gamma / np.sqrt(statistics(d.X_tilde)[1] + EPS),
    ),
    "Bessel's correction": (
        "bn-input",
        lambda d: FORMULAS["bn-input"][3](d) * np.sqrt((B - 1) / B),
    ),
    "Epsilon outside the root": (
        "bn-input",
        lambda d: (
            FORMULAS["bn-input"][3](d)
            * np.sqrt(statistics(d.X_tilde)[1] + EPS)
            / (np.sqrt(statistics(d.X_tilde)[1]) + EPS)
        ),
    ),
    "Gamma forgotten": ("bn-input", lambda d: FORMULAS["bn-input"][3](d) / d.gamma),
}

CITATION = re.compile(r"Eq\. \(([\w-]+)\)")


def printed(name):
    """Return the right-hand sides that the report prints of an equation, in index form and in matrix form."""
    body = EQUATIONS[name].replace(r"\begin{aligned}", "").replace(r"\end{aligned}", "")
    index, matrix = re.split(r"\\\\ &\\text\{matrix", body)
    return [side.split("&=", 1)[1].strip() for side in (index, matrix)]


def test_every_gradient_equation_of_the_report_is_checked_here():
    assert set(FORMULAS) == GRADIENTS


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_is_printed_as_it_is_checked_and_equals_central_differences(name):
    index_tex, index, matrix_tex, matrix, numerical = FORMULAS[name]
    assert printed(name) == [index_tex, matrix_tex], "the report prints another formula than the one below it here"
    draw = Draw()
    expected = numerical(draw)
    assert_close(f"{name}, index form", index(draw), expected, finite_differences=True)
    assert_close(f"{name}, matrix form", matrix(draw), expected, finite_differences=True)


def test_every_equation_that_the_code_cites_is_in_the_report_and_every_gradient_is_cited():
    cited = {name for code in CODE.values() for name in CITATION.findall(code)}
    assert cited - set(EQUATIONS) == set()
    assert GRADIENTS - cited == set()


def test_names_of_equations_are_unique():
    names = re.findall(r"\\name\{([\w-]+)\}", REPORT)
    assert len(names) == len(set(names)) == len(EQUATIONS)


@pytest.mark.parametrize("mistake", WRONG)
def test_mistake_of_the_reports_table_is_found(mistake):
    name, wrong = WRONG[mistake]
    draw = Draw()
    with pytest.raises(AssertionError, match=name):
        assert_close(name, wrong(draw), FORMULAS[name][4](draw), finite_differences=True)


def test_table_of_mistakes_lists_those_that_are_made_here():
    assert re.findall(r"\\mistake\{(.*?)\}", REPORT) == list(WRONG)
