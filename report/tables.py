"""What the recorded runs gave: the one place from which figures, report and README take their numbers.

Numbers have names, `fig05_adam.test_accuracy.mean`, and `results.tex` defines a LaTeX macro for each that the report
prints.
"""

import json
import re
import statistics

import numpy as np

from cifar10_utils import CLASSES
from report.claims import CLAIMS, UNDECIDED, is_borne_out, judge, measured, measures, prediction_interval
from report.finite_differences import chosen_step, relative_error
from report.five_layers import CONTROLS, LONG_RUNS, collapse_numbers, ends, gradient_numbers, long_run_numbers
from report.records import EXPERIMENTS, REPORT, SEARCH, read_records
from report.worked_example import BACKWARD, FORWARD, example_tex, inputs_tex, step_tex

ASLEEP = 0.15  # the train accuracy that a run passes as soon as it learns anything

# ---- Numbers -----------------------------------------------------------------------------------


def spread(values):
    """Return `{'mean': …, 'sd': …, 'min': …, 'max': …}`; the standard deviation (n − 1) of two values or more."""
    sd = {"sd": statistics.stdev(values)} if len(values) > 1 else {}
    return {"mean": statistics.mean(values), **sd, "min": min(values), "max": max(values)}


# What is the same but for one thing: of these, `change` is the difference in test accuracy of two runs of one
# seed, and `n_lower` of how many seeds it is below 0.
COMPARED_WITH = {"jpeg_75": "fig03_mlp_pytorch", "jpeg_50": "fig03_mlp_pytorch", "precision_mlp": "fig03_mlp_pytorch"}


def numbers(name):
    """Return what an experiment gave, `{'test_accuracy': {'mean': …, …}, …}`, over its seeds.

    `test_accuracy` and the like are of the last evaluation, `best_test_accuracy` of the one with the highest.
    Runs that diverged count in `n` and `n_diverged`, and by their seeds, and in nothing else.
    """
    records = read_records(name)
    whole = [record for record in records if record.is_whole]
    found = {
        "n": len(records),
        "n_diverged": len(records) - len(whole),
        "first_seed": records[0].seed,
        "last_seed": records[-1].seed,
    }
    if whole:
        runs = [measures(record.metrics) for record in whole]
        found |= {quantity: spread([run[quantity] for run in runs]) for quantity in runs[0]}
        found["n_with_collapse"] = sum(run["n_collapses"] > 0 for run in runs)
        found["n_asleep"] = sum(run["best_train_accuracy"] < ASLEEP for run in runs)
        found["n_with_jump"] = sum(run["n_jumps"] > 0 for run in runs)
        if name in COMPARED_WITH:
            other = {record.seed: record.metrics[-1] for record in read_records(COMPARED_WITH[name])}
            change = [r.metrics[-1]["test_accuracy"] - other[r.seed]["test_accuracy"] for r in whole if r.seed in other]
            found |= {"change": spread(change), "n_lower": sum(difference < 0 for difference in change)}
        found["minutes"] = spread([record.summary["seconds"] / 60 for record in whole])
    return found


# Digits behind the point; of others, 3.
DIGITS = dict.fromkeys(("n_falls", "n_jumps", "n_collapses", "first_train_loss", "minutes"), 1)
DIGITS |= dict.fromkeys(("flat_from", "best_step"), 0)


def format_number(quantity, value, statistic="mean"):
    """Return a number as report and README print it."""
    if isinstance(value, int) and statistic != "mean":  # a count, or a step
        return str(value)
    if quantity == "loss_change":
        return f"{value:.0e}"
    return f"{value:.{DIGITS.get(quantity, 3)}f}"


def all_numbers():
    """Return `{'fig05_adam.test_accuracy.mean': '0.347', …}` for every experiment that has a record.

    The original report's claims are `claim.fig01_mlp_numpy.test_accuracy` and so on.
    """
    found = {
        f"claim.{name}.{claim.quantity}": f"{claim.number:.3g}"
        for name, claims in CLAIMS.items()
        for claim in claims
        if claim.number is not None
    }
    found["claims.borne_out"] = str(
        sum(all(is_borne_out(claim, measured(name)) for claim in CLAIMS[name]) for name in RUNS)
    )
    for dtype in (np.float32, np.float64):
        found[f"differences.{dtype.__name__}"] = f"{relative_error(dtype, chosen_step(dtype)):.0e}"
    found |= gradient_numbers() | collapse_numbers() | long_run_numbers() | search_numbers()
    for record in read_records("answers_convnet"):  # answers.cat.dog: how many cats were taken for dogs
        counts = np.array(record.summary["confusion_matrix"])
        found |= {f"answers.{CLASSES[i]}.{CLASSES[j]}": str(n) for (i, j), n in np.ndenumerate(counts)}
        kernels = np.array(record.summary["first_layer"])
        correlation = np.corrcoef(kernels.ravel(), initial_kernels(record.seed).ravel())[0, 1]
        found["answers.kernels"] = f"{correlation:.3f}"  # how near they are to where they began
    for name in EXPERIMENTS:
        if not read_records(name):
            continue
        for quantity, value in numbers(name).items():
            for statistic, number in value.items() if isinstance(value, dict) else [("", value)]:
                key = ".".join(filter(None, (name, quantity, statistic)))
                found[key] = format_number(quantity, number, statistic)
    return found


def initial_kernels(seed):
    """Return the ConvNet's first kernels before its first step, (64, 3, 3, 3)."""
    import torch

    from convnet_pytorch import ConvNet

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ConvNet(3, 10).features[0].weight.detach().numpy()


def ablation_changes(network):
    """Return an ablation's validation accuracies: `{ingredient: (with it alone, with all but it)}`, None not recorded.

    That of None is the start and the end.
    """
    from report.search import SEARCHES, SEED, ablations, read_trials  # which imports PyTorch

    search, trials = SEARCHES[network], read_trials()
    found = {}
    for name, both in ablations(search).items():
        records = (trials.get((search.script, flags, search.ablation_budget, SEED)) for flags in both)
        found[name] = tuple(record and record["validation_accuracy"] for record in records)
    return found


def search_numbers():
    """Return how many trials the search and the ablation of each network had, and how many images the longest saw.

    `search.mlp.default` is where one more run of the default MLP may end after an ablation's 5,000 steps.
    """
    trials = [json.loads(line) for line in SEARCH.read_text().splitlines()]
    long = [m["test_accuracy"] for r in read_records("fig09_long") for m in r.metrics if m["step"] == 5000]
    found = ends("search.mlp.default", prediction_interval(long) if long else (), 3)
    for network in ("mlp", "convnet"):
        images = [t["images"] for t in trials if t["script"] == f"train_{network}_pytorch"]
        found |= {f"search.{network}.n": str(len(images)), f"search.{network}.images": str(max(images))}
    return found


# Experiments in the README's table of results, and what they are called there.
README_RUNS = {
    "fig01_mlp_numpy": "`train_mlp_numpy.py`",
    "precision_mlp": "`train_mlp_pytorch.py`",
    "precision_convnet": "`train_convnet_pytorch.py`",
    "fig13_convnet": "`train_convnet_pytorch.py --precision bf16`",
    "best_mlp": "`train_mlp_pytorch.py @report/experiments/best_mlp.args`",
    "best_convnet": "`train_convnet_pytorch.py @report/experiments/best_convnet.args`",
}

# ---- The original report's claims ---------------------------------------------------------------

RUNS = {  # of which claims are made, and what is run for them; each has a figure of accuracy and one of loss
    "fig01_mlp_numpy": "NumPy MLP, defaults",
    "fig03_mlp_pytorch": "PyTorch MLP, defaults",
    "fig05_adam": "Adam, else defaults",
    "fig07_five_layers": "five hidden layers, SGD, else defaults",
    "fig09_long": "50,000 steps, else defaults",
    "fig11_five_layers_adam_long": "five hidden layers, Adam, 50,000 steps",
    "fig13_convnet": "ConvNet, defaults",
}
# What our runs gave, of the quantity that a claim is about.
OURS = {
    "test_accuracy": "{pm}",
    "test_loss": "{pm}",
    "best_test_accuracy": "{pm}",
    "best_train_accuracy": "{min} to {max} at its highest",
    "gap": "{pm} apart at the end",
    "n_falls": "{pm} of 15 evaluations dip",
    "n_jumps": "{pm} of 15 evaluations jump",
    "off_chance": "within {max} of 0.1",
    "loss_change": "by {max} at most",
    "flat_from": "by step {max} at the latest",
    "best_step": "at step {min} to {max}",
}


def plus_minus(name, quantity):
    """Return `mean ± standard deviation`, or the one value that there is."""
    values = numbers(name)[quantity]
    return " ± ".join(format_number(quantity, values[key]) for key in ("mean", "sd") if key in values)


def ours(name, claim):
    """Return what an experiment's runs gave of a claim's quantity, in words, and what they say of the claim."""
    quantity, runs = claim.quantity, measured(name)
    values = {end: format_number(quantity, numbers(name)[quantity][end]) for end in ("min", "max")}
    text = OURS[quantity].format(pm=plus_minus(name, quantity), **values)
    if claim.relation == "about":
        text += " ({:.3f} to {:.3f})".format(*prediction_interval([run[quantity] for run in runs]))
    if name == "fig05_adam":
        text += f" (SGD: {judge(claim, measured('fig03_mlp_pytorch'))} runs)"
    return text, judge(claim, runs)


def claims_table():
    """Yield figures, run and `[(what the original report says, ours, verdict), …]` of each of the seven runs."""
    for name, run in RUNS.items():
        figure = CLAIMS[name][0].figure
        yield f"{figure}, {figure + 1}", run, [(claim.says, *ours(name, claim)) for claim in CLAIMS[name]]


def results_markdown():
    """Return the README's table of results."""
    lines = ["| run | seeds | test accuracy | test loss | training accuracy |", "|---|---|---|---|---|"]
    for name, run in README_RUNS.items():
        columns = " | ".join(plus_minus(name, q) for q in ("test_accuracy", "test_loss", "train_accuracy"))
        lines.append(f"| {run} | {numbers(name)['n']} | {columns} |")
    return "\n".join(lines) + "\n"


def tex(text):
    """Return a text of the tables as LaTeX."""
    text = re.sub(r"\d+e-\d+", r"\\num{\g<0>}", text)
    return text.replace("±", r"$\pm$").replace("ε", r"$\epsilon$").replace("β₂", r"$\beta_2$").replace("%", r"\%")


def rows_tex(rows):
    """Return rows of a table, each the texts of its columns, as LaTeX."""
    return "\n".join(" & ".join(map(tex, row)) + r" \\" for row in rows) + "\n"


def claims_tex():
    """Return the rows of the report's table of claims."""
    blocks = []
    for figures, run, claims in claims_table():
        rows = [(figures, run, *claims[0]), *(("", "", *claim) for claim in claims[1:])]
        blocks.append(rows_tex(rows))
    return "\\addlinespace\n".join(blocks)


# What was run of these figures in each configuration, the last one in float32.
CONFIGURED = ("fig03_mlp_pytorch", "fig05_adam", "fig07_five_layers", "fig09_long", "fig11_five_layers_adam_long")
CONFIGURATIONS = {
    "the course's weights": (*CONFIGURED[:-1], "precision_five_layers"),
    "PyTorch's own weights": ("pytorch_fig03", "pytorch_fig05", "depth_5_pytorch", "pytorch_fig09", "pytorch_fig11"),
    "He et al.'s weights": ("kaiming_fig03", "kaiming_fig05", "depth_5_kaiming", "kaiming_fig09", "kaiming_fig11"),
    "standardised pixels": tuple(f"standardize_fig{n:02d}" for n in (3, 5, 7, 9, 11)),
}


def configurations_tex():
    """Return the rows of the report's table of configurations: for each figure how many of its claims are borne out."""
    blocks = []
    for configuration, names in CONFIGURATIONS.items():
        cells = [[configuration], [""]]
        for figure, name in zip(CONFIGURED, names, strict=True):
            runs = measured(name)
            # Figure 9 is held against figure 3 in the same configuration.
            claims = [claim._replace(of=names[0]) if claim.of else claim for claim in CLAIMS[figure]]
            if runs:
                n = sum(is_borne_out(claim, runs) for claim in claims)
                n_undecided = sum(judge(claim, runs) == UNDECIDED for claim in claims)
                cells[0].append(f"{n} of {len(claims)}" + f", {n_undecided} undecided" * (n_undecided > 0))
                cells[1].append(f"{plus_minus(name, 'test_accuracy')} ({len(runs)})")
            else:
                cells[0].append("not run")
                cells[1].append("")
        blocks.append(rows_tex(cells))
    return "\\addlinespace\n".join(blocks)


LONG_QUANTITIES = ("best_test_accuracy", "best_step", "best_train_accuracy", "test_accuracy", "n_collapses")
CONTROL_QUANTITIES = ("n_collapses", "best_test_accuracy", "best_train_accuracy")


def ranges_tex(experiments, quantities):
    """Return rows of a table, `{what it is called: experiment}`: number of seeds, quantities from lowest to highest.

    Experiments without a record have no row.
    """
    rows = []
    for called, name in experiments.items():
        if runs := measured(name):
            row = [called, str(len(runs))]
            for quantity in quantities:
                values = [run[quantity] for run in runs]
                ends = (format_number(quantity, end(values), end.__name__) for end in (min, max))
                row.append(" to ".join(dict.fromkeys(ends)))
            rows.append(row)
    return rows_tex(rows)


def ablation_tex(network):
    """Return the rows of an ablation: an ingredient, what it adds to the start, and what it is worth at the end."""
    changes = ablation_changes(network)
    start, end = changes.pop(None)

    def difference(a, b):
        return "not run" if a is None or b is None else f"${a - b:+.3f}$"

    ends = ("not run" if accuracy is None else f"{accuracy:.3f}" for accuracy in (start, end))
    rows = [("defaults, and whole recipe", *ends)]
    rows += [(name, difference(alone, start), difference(end, without)) for name, (alone, without) in changes.items()]
    return rows_tex(rows)


def convnet_tex():
    """Return the rows of the report's table of the ConvNet: layer, shape of its output, number of parameters."""
    from convnet_pytorch import LAYERS

    rows, channels, side = [], 3, 32
    for layer in LAYERS:
        if layer == "pool":
            side, name, parameters = side // 2, r"max pooling $3 \times 3$, stride 2", 0
        else:
            # Weights, and a bias, γ and β for each channel.
            name, parameters, channels = f"convolution, {layer} channels", (9 * channels + 3) * layer, layer
        rows.append((name, rf"${channels} \times {side} \times {side}$", parameters))
    rows.append(("linear", "10", (channels + 1) * 10))
    rows.append((r"\midrule all", "", sum(parameters for *_, parameters in rows)))
    return "\n".join(f"{name} & {shape} & {parameters:,}" r" \\" for name, shape, parameters in rows) + "\n"


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
    tables = {
        "claimrows": claims_tex(),
        "configurationrows": configurations_tex(),
        "longrows": ranges_tex(LONG_RUNS, LONG_QUANTITIES),
        "controlrows": ranges_tex(CONTROLS, CONTROL_QUANTITIES),
        "convnetrows": convnet_tex(),
        "mlpablationrows": ablation_tex("mlp"),
        "convnetablationrows": ablation_tex("convnet"),
        "exampleinputs": inputs_tex(),
        "exampleforward": example_tex(FORWARD),
        "examplebackward": example_tex(BACKWARD),
        "examplestep": step_tex(),
    }
    lines += [f"\\newcommand{{\\{name}}}{{%\n{rows}}}" for name, rows in tables.items()]
    return "\n".join(lines) + "\n"
