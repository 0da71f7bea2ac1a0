"""What the recorded runs gave: the one place from which figures, report and README take their numbers.

Numbers have names, `fig05_adam.test_accuracy.mean`, and `results.tex` defines a LaTeX macro for each that the report
prints.
"""

import math
import re
import statistics
from itertools import pairwise
from typing import NamedTuple

from report.records import EXPERIMENTS, REPORT, read_records

# ---- Numbers -----------------------------------------------------------------------------------

QUANTITIES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "validation_loss", "validation_accuracy")


def gap(metrics):
    """Return by how much train accuracy was above test accuracy at the end."""
    return metrics[-1]["train_accuracy"] - metrics[-1]["test_accuracy"]


def n_falls(metrics, least=0.02):
    """Return at how many evaluations test accuracy was at least `least` below that of the one before."""
    values = [m["test_accuracy"] for m in metrics]
    return sum(before - after >= least for before, after in pairwise(values))


def n_jumps(metrics, least=0.1):
    """Return at how many evaluations test loss was at least `least` above that of the one before."""
    values = [m["test_loss"] for m in metrics]
    return sum(after - before >= least for before, after in pairwise(values))


def flat_from(metrics, within=0.95):
    """Return the first step at which test accuracy came to `within` of its highest value in the run."""
    highest = max(m["test_accuracy"] for m in metrics)
    return next(m["step"] for m in metrics if m["test_accuracy"] >= within * highest)


def best_step(metrics):
    """Return the first step at which test accuracy had its highest value in the run."""
    return max(metrics, key=lambda m: m["test_accuracy"])["step"]


def spread(values):
    """Return `{'mean': …, 'sd': …, 'min': …, 'max': …}`; the standard deviation (n − 1) of two values or more."""
    sd = {"sd": statistics.stdev(values)} if len(values) > 1 else {}
    return {"mean": statistics.mean(values), **sd, "min": min(values), "max": max(values)}


def numbers(name):
    """Return what an experiment gave, `{'test_accuracy': {'mean': …, …}, …}`, over its seeds.

    `test_accuracy` and the like are of the last evaluation, `best_test_accuracy` of the one with the highest.
    Runs that diverged count in `n` and `n_diverged`, and in nothing else.
    """
    records = read_records(name)
    whole = [record for record in records if record.summary is not None]
    found = {
        "n": len(records),
        "n_diverged": len(records) - len(whole),
        "first_seed": records[0].seed,
        "last_seed": records[-1].seed,
    }
    if not whole:
        return found
    for quantity in QUANTITIES:
        if quantity in whole[0].metrics[-1]:
            found[quantity] = spread([record.metrics[-1][quantity] for record in whole])
    found["best_test_accuracy"] = spread([max(m["test_accuracy"] for m in record.metrics) for record in whole])
    found["best_train_accuracy"] = spread([max(m["train_accuracy"] for m in record.metrics) for record in whole])
    found["least_test_loss"] = spread([min(m["test_loss"] for m in record.metrics) for record in whole])
    found["loss_change"] = spread(
        [max(abs(m["test_loss"] - record.metrics[0]["test_loss"]) for m in record.metrics) for record in whole]
    )
    for measure in (gap, n_falls, n_jumps, flat_from, best_step):
        found[measure.__name__] = spread([measure(record.metrics) for record in whole])
    found["minutes"] = spread([record.summary["seconds"] / 60 for record in whole])
    return found


DIGITS = {"n_falls": 1, "n_jumps": 1, "flat_from": 0, "best_step": 0, "minutes": 1}  # others: 3


def format_number(quantity, value):
    """Return a number as report and README print it."""
    if quantity in ("n", "n_diverged", "first_seed", "last_seed"):
        return str(value)
    if quantity == "loss_change":
        return f"{value:.0e}"
    return f"{value:.{DIGITS.get(quantity, 3)}f}"


def all_numbers():
    """Return `{'fig05_adam.test_accuracy.mean': '0.347', …}` for every experiment that has a record.

    The original report's claims are `claim.fig01_mlp_numpy.test_accuracy` and so on.
    """
    found = {f"claim.{name}.{of}": f"{value:.3g}" for name, claims in CLAIMS.items() for of, value in claims.items()}
    for name in EXPERIMENTS:
        if not read_records(name):
            continue
        for quantity, value in numbers(name).items():
            for statistic, number in value.items() if isinstance(value, dict) else [("", value)]:
                key = ".".join(filter(None, (name, quantity, statistic)))
                found[key] = format_number(quantity, number)
    return found


# Experiments in the README's table of results, and what they are called there.
README_RUNS = {
    "fig01_mlp_numpy": "`train_mlp_numpy.py`",
    "fig03_mlp_pytorch": "`train_mlp_pytorch.py`, bf16",
    "precision_mlp": "`train_mlp_pytorch.py`, fp32",
    "fig13_convnet": "`train_convnet_pytorch.py`, bf16",
    "precision_convnet": "`train_convnet_pytorch.py`, fp32",
    "best_mlp": "`train_mlp_pytorch.py @report/experiments/best_mlp.args`",
    "best_convnet": "`train_convnet_pytorch.py @report/experiments/best_convnet.args`",
}

# ---- The original report's claims ---------------------------------------------------------------

# What it says in numbers, for the dashed lines of the figures.
CLAIMS = {
    "fig01_mlp_numpy": {"test_accuracy": 0.46, "test_loss": 1.6},
    "fig03_mlp_pytorch": {"test_accuracy": 0.46, "test_loss": 1.6},
    "fig07_five_layers": {"test_accuracy": 0.1, "test_loss": math.log(10)},  # those of a uniform guess
    "fig09_long": {"test_accuracy": 0.46},
    "fig11_five_layers_adam_long": {"test_accuracy": 0.53, "best_test_accuracy": 0.54, "train_accuracy": 0.95},
    "fig13_convnet": {"test_accuracy": 0.76, "test_loss": 0.75},
}


class Row(NamedTuple):
    """One line of the table of claims.

    Attributes:
        figures: their numbers.
        run: which one it is.
        claims: (what the original report says, what our runs gave, whether that is the same), one or several.
    """

    figures: str
    run: str
    claims: list

    @property
    def verdict(self):
        same = [is_same for _, _, is_same in self.claims]
        return "same" if all(same) else "partly" if any(same) else "different"


def plus_minus(name, quantity):
    """Return `mean ± standard deviation`, or the one value that there is."""
    values = numbers(name)[quantity]
    return " ± ".join(format_number(quantity, values[key]) for key in ("mean", "sd") if key in values)


def about(name, quantity, label):
    """Return a claim of `CLAIMS` as `Row.claims` has it: what it says, what our runs gave, whether that is the same.

    It is where the claim, to half of its last digit, lies within two standard deviations of our mean.
    """
    claim, values = CLAIMS[name][quantity], numbers(name)[quantity]
    half_a_digit = 0.5 * 10 ** -len(str(claim).split(".")[1])
    is_same = abs(claim - values["mean"]) <= 2 * values.get("sd", 0) + half_a_digit
    return f"{label} about {claim}", f"{label} {plus_minus(name, quantity)}", is_same


def claims_table():
    """Return the `Row`s of all seven runs."""
    defaults = {}
    for name in ("fig01_mlp_numpy", "fig03_mlp_pytorch"):
        defaults[name] = [
            about(name, "test_accuracy", "test accuracy"),
            about(name, "test_loss", "loss"),
            (
                "train and test part",
                f"accuracies {plus_minus(name, 'gap')} apart at the end",
                numbers(name)["gap"]["min"] > 0,
            ),
        ]
    sgd, adam = numbers("fig03_mlp_pytorch"), numbers("fig05_adam")
    noise = (
        "accuracy dips and loss jumps at many evaluations",
        f"of 15 evaluations, {adam['n_falls']['mean']:.1f} dip by 0.02 or more (SGD: {sgd['n_falls']['mean']:.1f}) "
        f"and {adam['n_jumps']['mean']:.1f} jump by 0.1 or more (SGD: {sgd['n_jumps']['mean']:.1f})",
        adam["n_falls"]["mean"] > sgd["n_falls"]["mean"] and adam["n_jumps"]["mean"] > sgd["n_jumps"]["mean"],
    )
    deep = numbers("fig07_five_layers")
    low, high = (format_number("test_accuracy", deep["test_accuracy"][end]) for end in ("min", "max"))
    still = [
        (
            "accuracy as good as random",
            f"test accuracy {low} in every seed" if low == high else f"test accuracy {low} to {high}",
            deep["test_accuracy"]["min"] >= 0.09 and deep["test_accuracy"]["max"] <= 0.11,
        ),
        (
            "loss barely moves",
            f"loss moves by {deep['loss_change']['max']:.0e} at most",
            deep["loss_change"]["max"] < 0.01,
        ),
    ]
    name, long = "fig09_long", numbers("fig09_long")
    more_steps = [
        (
            "no better than figure 3",
            f"test accuracy {plus_minus(name, 'test_accuracy')} (figure 3: "
            f"{plus_minus('fig03_mlp_pytorch', 'test_accuracy')})",
            long["test_accuracy"]["mean"] <= sgd["test_accuracy"]["mean"] + 2 * sgd["test_accuracy"].get("sd", 0),
        ),
        (
            "flattens early",
            f"within 5% of its best by step {long['flat_from']['max']} in every seed",
            long["flat_from"]["max"] <= 10_000,
        ),
    ]
    name, both = "fig11_five_layers_adam_long", numbers("fig11_five_layers_adam_long")
    together = [
        about(name, "best_test_accuracy", "peak"),
        (
            "peaks early",
            f"at step {both['best_step']['min']} to {both['best_step']['max']} of 50000",
            both["best_step"]["max"] <= 10_000,
        ),
        about(name, "test_accuracy", "end"),
        (
            f"train accuracy over {CLAIMS[name]['train_accuracy']}",
            f"train accuracy {plus_minus(name, 'train_accuracy')}, at most {both['train_accuracy']['max']:.3f}",
            both["train_accuracy"]["max"] > CLAIMS[name]["train_accuracy"],
        ),
    ]
    name = "fig13_convnet"
    convnet = [about(name, "test_accuracy", "test accuracy"), about(name, "test_loss", "loss")]
    return [
        Row("1, 2", "NumPy MLP, defaults", defaults["fig01_mlp_numpy"]),
        Row("3, 4", "PyTorch MLP, defaults", defaults["fig03_mlp_pytorch"]),
        Row("5, 6", "Adam, else defaults", [noise]),
        Row("7, 8", "five hidden layers, SGD, else defaults", still),
        Row("9, 10", "50,000 steps, else defaults", more_steps),
        Row("11, 12", "five hidden layers, Adam, 50,000 steps", together),
        Row("13, 14", "ConvNet, defaults", convnet),
    ]


def claims_markdown():
    """Return the README's table of claims."""
    lines = ["| figures | run | the original report | our runs | |", "|---|---|---|---|---|"]
    for row in claims_table():
        theirs, ours, _ = zip(*row.claims, strict=True)
        lines.append(f"| {row.figures} | {row.run} | {'; '.join(theirs)} | {'; '.join(ours)} | {row.verdict} |")
    return "\n".join(lines) + "\n"


def results_markdown():
    """Return the README's table of results."""
    lines = ["| run | seeds | test accuracy, lowest to highest | test loss | train accuracy | train loss |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, run in README_RUNS.items():
        found = numbers(name)
        several = found["n"] > 1
        accuracy = plus_minus(name, "test_accuracy")
        if several:
            accuracy += ", {min:.3f} to {max:.3f}".format(**found["test_accuracy"])
        seeds = f"{found['first_seed']} to {found['last_seed']}" if several else found["first_seed"]
        others = " | ".join(plus_minus(name, q) for q in ("test_loss", "train_accuracy", "train_loss"))
        lines.append(f"| {run} | {seeds} | {accuracy} | {others} |")
    return "\n".join(lines) + "\n"


def claims_tex():
    """Return the rows of the report's table of claims."""
    lines = []
    for row in claims_table():
        for i, (theirs, ours, is_same) in enumerate(row.claims):
            cells = [row.figures, row.run] if i == 0 else ["", ""]
            cells += [theirs, ours, "same" if is_same else "different"]
            lines.append(" & ".join(cells).replace("±", "$\\pm$").replace("%", "\\%") + r" \\")
        lines.append(r"\addlinespace")
    return "\n".join(lines[:-1]) + "\n"


# What report.tex calls to print numbers: the names that each stands for, of its argument.
MACROS = {
    "result": ("{}",),
    "claimed": ("claim.{}",),
    "pmresult": ("{}.mean", "{}.sd"),
    "rangeresult": ("{}.min", "{}.max"),
}


def quoted_numbers(tex):
    """Return the names of the numbers that a LaTeX text prints, in their order."""
    tex = re.sub(r"(?<!\\)%.*", "", tex)
    quoted = re.findall(rf"\\({'|'.join(MACROS)})\{{([^#{{}}]+)\}}", tex)
    return list(dict.fromkeys(part.format(name) for macro, name in quoted for part in MACROS[macro]))


def report_numbers():
    """Return the names of the numbers that report.tex prints."""
    return quoted_numbers((REPORT / "report.tex").read_text(encoding="utf-8"))


def results_tex():
    """Return the content of `results.tex`: a macro for each number that report.tex prints, and its table of claims.

    Raises:
        ValueError: report.tex prints a number that no recorded run gives.
    """
    quoted, found = report_numbers(), all_numbers()
    unknown = [name for name in quoted if name not in found]
    # Of one seed there is no standard deviation, and \pmresult prints none.
    unknown = [name for name in unknown if not (name.endswith(".sd") and f"{name[:-3]}.mean" in found)]
    if unknown:
        raise ValueError(
            f"report.tex prints {', '.join(unknown[:3])}, which no recorded run gives: write its name as one of "
            "report/tables.py, or run its experiment"
        )
    lines = ["% Written by report/reproduce.py from report/results; \\result{NAME} prints a number."]
    lines += [rf"\defineresult{{{name}}}{{{number}}}" for name, number in found.items() if name in quoted]
    return "\n".join(lines) + "\n\\newcommand{\\claimrows}{%\n" + claims_tex() + "}\n"
