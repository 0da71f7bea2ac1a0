"""The numbers and tables of the report, from recorded runs.

`results.tex` defines each number that report.tex prints by its name, as `fig05_adam.test_accuracy.mean`.
"""

import re
import statistics

import numpy as np

from report.claims import CLAIMS, REPRODUCED, judge, measured
from report.finite_differences import chosen_step, relative_error
from report.records import read_records, whole_runs
from report.runs import EXPERIMENTS, REPORT, WIDTHS
from report.search import SEARCH_SEED, SEARCHES, ablations, read_trials, validation_accuracy
from report.worked_example import example_numbers

# ---- Numbers -------------------------------------------------------------------------------------


def spread(values):
    """Return mean, standard deviation (n − 1; of two finite numbers or more), least and largest, by name."""
    sd = {"sd": statistics.stdev(values)} if len(values) > 1 and np.isfinite(values).all() else {}
    return {"mean": statistics.mean(values), **sd, "min": min(values), "max": max(values)}


def numbers(name):
    """Return `{'n': seeds, 'n_diverged': …, 'test_accuracy': spread, …}` of an experiment.

    Diverged runs count only in `n` and `n_diverged`.
    """
    records, runs = read_records(name), measured(name)
    found = {"n": len(records), "n_diverged": len(records) - len(runs)}
    if runs:
        found |= {quantity: spread([run[quantity] for run in runs]) for quantity in runs[0]}
        found["n_with_collapse"] = sum(run["n_collapses"] > 0 for run in runs)
    return found


def change(name, other):
    """Return the `spread` of an experiment's test accuracy minus that of another one with the same seeds."""
    before = {run.seed: run.metrics[-1]["test_accuracy"] for run in whole_runs(other)}
    return spread([run.metrics[-1]["test_accuracy"] - before[run.seed] for run in whole_runs(name)])


def gradients(name):
    """Return steps, and root mean squares of the gradients of weights and biases, (layers, steps), of the first run."""
    sizes, metrics = (3072, *WIDTHS, 10), read_records(name)[0].metrics[1:]  # the first is before any step
    found = []
    for name, n_entries in (("weight", np.multiply(sizes[:-1], sizes[1:])), ("bias", np.array(sizes[1:]))):
        norms = [[m[f"{name}_{layer}_gradient"] for m in metrics] for layer in range(1, len(sizes))]
        found.append(np.array(norms) / np.sqrt(n_entries)[:, None])
    return [m["step"] for m in metrics], *found


def gradient_numbers():
    """Return r.m.s. gradients of the five-layer network under SGD from the course's weights.

    `gradients.least_ratio` is the least ratio of a weight gradient from PyTorch's initial weights to the one here.
    """
    _, weights, _ = gradients("gradients_normal_sgd")
    _, others, _ = gradients("gradients_pytorch_sgd")
    _, first_weights, first_biases = gradients("gradients_first_steps")
    return {
        "gradients.first.last_weight": f"{first_weights[-1, 0]:.1e}",
        "gradients.first.last_hidden_bias": f"{first_biases[-2, 0]:.1e}",
        "gradients.second.last_weight": f"{first_weights[-1, 1]:.1e}",
        "gradients.last.max": f"{weights[-1].max():.1e}",
        "gradients.least_ratio": f"{(others / weights).min():.0e}",
    }


def search_numbers():
    """Return the number of trials for each network, and the images of the longest.

    `search.mlp.short` and `.long` are the recipe's validation accuracies with 20,000 and 50,000 steps.
    `search.mlp.default.sd` is the standard deviation of the default MLP's test accuracy at the ablation's 5,000 steps.
    """
    accuracies = [m["test_accuracy"] for run in whole_runs("fig09_long") for m in run.metrics if m["step"] == 5000]
    found = {"search.mlp.default.sd": f"{statistics.stdev(accuracies):.3f}"}
    mlp = SEARCHES["mlp"]
    for name, images in (("short", 4_000_000), ("long", 10_000_000)):
        found[f"search.mlp.{name}"] = f"{validation_accuracy(mlp.script, mlp.recipe, images, SEARCH_SEED + 1):.3f}"
    for network, search in SEARCHES.items():
        images = [trial["images"] for trial in read_trials().values() if trial["script"] == search.script]
        found |= {f"search.{network}.n": str(len(images)), f"search.{network}.images": str(max(images))}
    return found


def claim_numbers():
    """Return the original's numbers, and how many of its claims are reproduced in the configuration that fits best."""
    found = {
        f"claim.{name}.{claim.quantity}": f"{claim.expected:.3g}"
        for name, claims in CLAIMS.items()
        for claim in claims
        if not isinstance(claim.expected, str)
    }
    verdicts = [verdict for name, claims in CLAIMS.items() if name in RUNS for *_, verdict in judged(name, claims)]
    return found | {"claims.n": str(len(verdicts)), "claims.n_reproduced": str(verdicts.count(REPRODUCED))}


# Digits after the decimal point; others have three.
DIGITS = dict.fromkeys(("n_falls", "n_jumps", "n_collapses", "first_train_loss"), 1)
DIGITS |= dict.fromkeys(("flat_from", "best_step", "gap_from"), 0)


def format_number(quantity, value, statistic="mean"):
    if isinstance(value, int) and statistic != "mean":  # a count or a step
        return str(value)
    return f"{value:.0e}" if quantity == "loss_change" else f"{value:.{DIGITS.get(quantity, 3)}f}"


def all_numbers():
    """Return `{'fig05_adam.test_accuracy.mean': '0.356', …}`, of every experiment."""
    found = claim_numbers() | gradient_numbers() | search_numbers() | example_numbers()
    for dtype in (np.float32, np.float64):
        found[f"differences.{dtype.__name__}"] = f"{relative_error(dtype, chosen_step(dtype)):.0e}"
    for name in EXPERIMENTS:
        values = numbers(name)
        if name == "jpeg_50":
            values["change"] = change(name, "fig03_mlp_pytorch")
        for quantity, value in values.items():
            for statistic, number in value.items() if isinstance(value, dict) else [("", value)]:
                found[".".join(filter(None, (name, quantity, statistic)))] = format_number(quantity, number, statistic)
    return found


# ---- Tables --------------------------------------------------------------------------------------

RUNS = {
    "fig01_mlp_numpy": "NumPy MLP",
    "fig03_mlp_pytorch": "PyTorch MLP",
    "fig05_adam": "Adam",
    "fig07_five_layers": "five hidden layers",
    "fig09_long": "50,000 steps",
    "fig11_five_layers_adam_long": "five layers, Adam",
    "fig13_convnet": "ConvNet",
}
# What the claims table calls a quantity other than an accuracy.
MEASURED = dict.fromkeys(("accuracy_gap", "loss_gap"), "gap") | dict.fromkeys(("flat_from", "gap_from"), "step")
MEASURED |= {"n_falls": "dips", "n_jumps": "jumps", "off_chance": "distance"}
CONFIGURATIONS = {
    "the course's": ("fig03_mlp_pytorch", "fig05_adam", "fig07_five_layers", "course_fig11"),
    "PyTorch's weights": ("pytorch_fig03", "pytorch_fig05", "depth_5_pytorch", "pytorch_fig11"),
    "standardised pixels": (
        "standardize_fig03", "standardize_fig05", "standardize_fig07", "fig11_five_layers_adam_long",
    ),
}  # fmt: skip
README_RUNS = {
    "fig01_mlp_numpy": "`train_mlp_numpy.py`",
    "fig03_mlp_pytorch": "`train_mlp_pytorch.py`",
    "fig13_convnet": "`train_convnet_pytorch.py`",
    "best_mlp": "`train_mlp_pytorch.py @report/experiments/best_mlp.args`",
    "best_convnet": "`train_convnet_pytorch.py @report/experiments/best_convnet.args`",
}


def judged(name, claims):
    """Yield words of a claim, our runs as LaTeX, and the verdict, for each claim about an experiment."""
    runs = measured(name)
    for claim in claims:
        ours = rf"\pmresult{{{name}.{claim.quantity}}}"
        if claim.relation != "about":
            n = sum(claim.is_shown(run[claim.quantity]) for run in runs)
            spread = rf"{MEASURED.get(claim.quantity, '')} \rangeresult{{{name}.{claim.quantity}}}".strip()
            ours = f"{n} of {len(runs)} seeds ({spread})"
        yield claim.says, ours, judge(claim, runs)


def claims_tex():
    blocks = []
    for name, run in RUNS.items():
        figure, claims = CLAIMS[name][0].figure, judged(name, CLAIMS[name])
        first, *others = ((says.replace("figure ", "O"), *more) for says, *more in claims)
        blocks.append(rows_tex([(f"O{figure}, O{figure + 1}", run, *first), *(("", "", *claim) for claim in others)]))
    return "\\addlinespace\n".join(blocks)


def configurations_tex():
    """Return for each configuration and figure how many claims are reproduced, and the test accuracy at the end."""
    blocks = []
    for configuration, names in CONFIGURATIONS.items():
        shares, accuracies = [configuration], [""]
        for figure, name in zip(CONFIGURATIONS["the course's"], names, strict=True):
            verdicts = [verdict for *_, verdict in judged(name, CLAIMS[figure])]
            shares.append(f"{verdicts.count(REPRODUCED)} of {len(verdicts)}")
            accuracies.append(rf"\pmresult{{{name}.test_accuracy}}")
        blocks.append(rows_tex([shares, accuracies]))
    return "\\addlinespace\n".join(blocks)


def ablation_tex(network):
    """Return rows of an ingredient, its gain alone and the drop without it; the two baselines come first."""
    search = SEARCHES[network]
    accuracies = {
        name: [validation_accuracy(search.script, flags, search.images, SEARCH_SEED) for flags in both]
        for name, both in ablations(search).items()
    }
    start, end = accuracies.pop(None)
    rows = [(name, signed(alone - start), signed(end - without)) for name, (alone, without) in accuracies.items()]
    return rows_tex([("defaults; all ingredients", f"{start:.3f}", f"{end:.3f}")]) + "\\addlinespace\n" + rows_tex(rows)


def signed(value):
    text = f"{value:+.3f}"
    return "0.000" if float(text) == 0 else f"${text}$"


def rows_tex(rows):
    """Return rows of a table, each the texts of its columns, as LaTeX."""
    return "".join(" & ".join(row) + " \\\\\n" for row in rows)


def results_markdown():
    """Return the README's table of results."""
    lines = ["| run | seeds | test accuracy | test loss | training accuracy |", "|---|---|---|---|---|"]
    for name, run in README_RUNS.items():
        values = numbers(name)
        spreads = [values[quantity] for quantity in ("test_accuracy", "test_loss", "train_accuracy")]
        columns = " | ".join(f"{spread['mean']:.3f} ± {spread['sd']:.3f}" for spread in spreads)
        lines.append(f"| {run} | {values['n']} | {columns} |")
    return "\n".join(lines) + "\n"


# ---- results.tex ---------------------------------------------------------------------------------


def results_tex():
    """Return the content of results.tex: tables, and the numbers that they and report.tex name."""
    tables = {
        "claimrows": claims_tex(),
        "configurationrows": configurations_tex(),
        "mlpablationrows": ablation_tex("mlp"),
        "convnetablationrows": ablation_tex("convnet"),
    }
    text = (REPORT / "report.tex").read_text(encoding="utf-8") + "".join(tables.values())
    named = set(re.findall(r"\{([\w.-]+)\}", text))  # full names, or names without the statistic, as in \pmresult
    lines = ["% Written by report/reproduce.py from report/results; \\result{NAME} prints a number."]
    for name, number in all_numbers().items():
        if name in named or name.rpartition(".")[0] in named:
            lines.append(rf"\defineresult{{{name}}}{{{number}}}")
    lines += [f"\\newcommand{{\\{name}}}{{%\n{rows}}}" for name, rows in tables.items()]
    return "\n".join(lines) + "\n"
