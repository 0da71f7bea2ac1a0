"""What the recorded runs gave: the one place from which figures, report and README take their numbers.

Numbers have names, `fig05_adam.test_accuracy.mean`, and `results.tex` defines a LaTeX macro for each that the report
prints.
"""

import json
import re
import statistics

import numpy as np

from cifar10_utils import CLASSES
from report.claims import CLAIMS, UNDECIDED, collapses, is_borne_out, judge, measured, measures, prediction_interval
from report.finite_differences import chosen_step, relative_error
from report.records import ADAM_EPS, EXPERIMENTS, INITS, REPORT, SEARCH, read_records
from report.worked_example import BACKWARD, FORWARD, example_tex, inputs_tex, step_tex

# ---- Numbers -----------------------------------------------------------------------------------


def spread(values):
    """Return `{'mean': …, 'sd': …, 'min': …, 'max': …}`; the standard deviation (n − 1) of two values or more."""
    sd = {"sd": statistics.stdev(values)} if len(values) > 1 else {}
    return {"mean": statistics.mean(values), **sd, "min": min(values), "max": max(values)}


# What is the same but for one thing: of these, `change` is the difference in test accuracy of two runs of one seed.
COMPARED_WITH = {"jpeg_75": "fig03_mlp_pytorch", "jpeg_50": "fig03_mlp_pytorch", "precision_mlp": "fig03_mlp_pytorch"}


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
    if whole:
        runs = [measures(record.metrics) for record in whole]
        found |= {quantity: spread([run[quantity] for run in runs]) for quantity in runs[0]}
        found["n_without_collapse"] = sum(run["n_collapses"] == 0 for run in runs)
        found["n_with_collapse"] = sum(run["n_collapses"] > 0 for run in runs)
        found["n_asleep"] = sum(run["best_train_accuracy"] < ASLEEP for run in runs)
        found["n_with_jump"] = sum(run["n_jumps"] > 0 for run in runs)
        if name in COMPARED_WITH:
            other = {record.seed: record.metrics[-1] for record in read_records(COMPARED_WITH[name])}
            found["change"] = spread(
                [r.metrics[-1]["test_accuracy"] - other[r.seed]["test_accuracy"] for r in whole if r.seed in other]
            )
        found["minutes"] = spread([record.summary["seconds"] / 60 for record in whole])
    return found


ASLEEP = 0.15  # the train accuracy that a run passes as soon as it learns anything

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
    found |= gradient_numbers() | collapse_numbers() | search_numbers()
    for record in read_records("answers_convnet"):  # answers.cat.dog: how many cats were taken for dogs
        counts = np.array(record.summary["confusion_matrix"])
        found |= {f"answers.{CLASSES[i]}.{CLASSES[j]}": str(n) for (i, j), n in np.ndenumerate(counts)}
    for name in EXPERIMENTS:
        if not read_records(name):
            continue
        for quantity, value in numbers(name).items():
            for statistic, number in value.items() if isinstance(value, dict) else [("", value)]:
                key = ".".join(filter(None, (name, quantity, statistic)))
                found[key] = format_number(quantity, number, statistic)
    return found


def gradients(record):
    """Return the steps of a run's evaluations but the first, and of each layer's weights and bias the gradients there.

    They are root mean squares over the entries, which is what Adam's ε is to be compared with: (n_layers, n_steps).
    """
    sizes = [3072, *record.config["flags"]["dnn_hidden_units"], 10]
    metrics = record.metrics[1:]  # before the first step there is no gradient
    found = []
    for name, n_entries in (("weight", np.multiply(sizes[:-1], sizes[1:])), ("bias", np.array(sizes[1:]))):
        norms = [[m[f"{name}_{layer}_gradient"] for m in metrics] for layer in range(1, len(sizes))]
        found.append(np.array(norms) / np.sqrt(n_entries)[:, None])
    return [m["step"] for m in metrics], *found


def read_steps(name):
    """Return (record, steps) of the whole runs of an experiment with `--every_step`.

    The steps are `{'gradient_norms': array, …}`, in which the first value is of step 1.
    """
    names = ("batch_losses", "gradient_norms", "step_lengths")
    whole = [record for record in read_records(name) if record.summary is not None]
    return [
        (record, {name: np.concatenate([m[name] for m in record.metrics[1:]]) for name in names}) for record in whole
    ]


SPIKE = 10  # times the median of the 100 gradients before it: what a collapse begins with


def first_spike(steps):
    """Return the first step after 500, where the network has long woken up, with a `SPIKE`, or None."""
    norms = steps["gradient_norms"]
    spikes = (i + 1 for i in range(500, len(norms)) if norms[i] >= SPIKE * np.median(norms[i - 100 : i]))
    return next(spikes, None)


AWAKE = 1e-8  # Adam's ε by default


def gradient_numbers():
    """Return what the recorded gradients show, in numbers.

    `wake.1e-4` is the step at which the weights' gradients of all layers have come above `AWAKE` with an ε of 1e-4;
    `gradients.least_ratio` by how much, under SGD, those from other initial weights are larger than from the course's.
    """
    found = {}
    for eps in ADAM_EPS:
        for record in read_records(f"wake_eps_{eps}"):
            steps, weights, _ = gradients(record)
            above = (weights >= AWAKE).all(axis=0)
            if above.any():
                found[f"wake.{eps}"] = str(steps[above.argmax()])
    normal, *others = (read_records(f"gradients_{init}_sgd") for init in INITS)
    if normal and all(others):
        ratios = [gradients(other)[1] / gradients(normal[0])[1] for (other,) in others]
        digits, exponent = f"{np.min(ratios):e}".split("e")
        found["gradients.least_ratio"] = f"{digits[0]}e{int(exponent)}"  # rounded down: it is at least that
    return found


# Of a run's first spike, digits behind the point. Multiples of the medians of the 100 steps before: the gradient, the
# step's length, gradient and loss of the batch after it, the highest loss of the 60 after it. Lengths of steps: that
# median, and the one from 500 to 1,000 steps after, where the run has collapsed.
SPIKE_DIGITS = {
    "gradient": 0,
    "length": 1,
    "next_gradient": 1,
    "next_loss": 1,
    "highest_loss": 1,
    "usual": 2,
    "later": 3,
}


def spikes(runs):
    """Return what the first spikes of runs from `read_steps` were like, `{key of SPIKE_DIGITS: [value, …]}`."""
    seen = {quantity: [] for quantity in SPIKE_DIGITS}
    for record, steps in runs:
        if at := first_spike(steps):
            usual = {key: np.median(values[at - 101 : at - 1]) for key, values in steps.items()}
            norms, losses = (steps[key] / usual[key] for key in ("gradient_norms", "batch_losses"))
            lengths = steps["step_lengths"]
            seen["gradient"].append(norms[at - 1])
            seen["length"].append(lengths[at - 1] / usual["step_lengths"])
            seen["usual"].append(usual["step_lengths"])
            if at < len(norms):
                seen["next_gradient"].append(norms[at])
                seen["next_loss"].append(losses[at])
                seen["highest_loss"].append(losses[at : at + 60].max())
            if collapses(record.metrics) and at + 999 <= len(norms):
                seen["later"].append(np.median(lengths[at + 499 : at + 999]))
    return seen


def collapse_numbers():
    """Return what the runs of 5,000 steps show of collapses, in numbers.

    `thinned.peak` is how much lower at most a peak is where every fifth evaluation alone counts. `spike.none.n` is how
    many of the unchanged runs have a spike, and `spike.none.gradient` and so on are those of `spikes`.
    `steps.none.early` and `late` are the median lengths of steps 401 to 500 and of the last 100. `collapse.first.NAME`
    is the evaluation that shows the first collapse of a long run.
    """
    peaks = [[m["test_accuracy"] for m in r.metrics] for name in CONTROLS.values() for r in read_records(name)]
    found = {"thinned.peak": f"{max(max(accuracy) - max(accuracy[::5]) for accuracy in peaks):.3f}"} if peaks else {}
    for control in STEP_LENGTHS:
        runs = read_steps(f"collapses_{control}")
        seen = spikes(runs)
        found[f"spike.{control}.n"] = str(len(seen["gradient"]))
        for quantity, digits in SPIKE_DIGITS.items():
            found |= ends(f"spike.{control}.{quantity}", seen[quantity], digits)
        lengths = [steps["step_lengths"] for _, steps in runs]
        found |= ends(f"steps.{control}.early", [np.median(run[400:500]) for run in lengths], 3)
        found |= ends(f"steps.{control}.late", [np.median(run[-100:]) for run in lengths], 3)
    for name in LONG_RUNS.values():
        firsts = [step for record in read_records(name) for step in collapses(record.metrics)[:1]]
        found |= ends(f"collapse.first.{name}", firsts, 0)
    return found


def ends(name, values, digits):
    """Return `{'name.min': text, 'name.max': text}` of some values, or nothing of none."""
    return {f"{name}.{end.__name__}": f"{end(values):.{digits}f}" for end in (min, max)} if values else {}


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
    """Return how many trials the search and the ablation of each network had, and how many images the longest saw."""
    trials = [json.loads(line) for line in SEARCH.read_text().splitlines()]
    found = {}
    for network in ("mlp", "convnet"):
        images = [t["images"] for t in trials if t["script"] == f"train_{network}_pytorch"]
        found |= {f"search.{network}.n": str(len(images)), f"search.{network}.images": str(max(images))}
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


def claims_markdown():
    """Return the README's table of claims."""
    lines = ["| figures | run | the original report | our runs | verdict |", "|---|---|---|---|---|"]
    for figures, run, claims in claims_table():
        columns = ["<br>".join(column) for column in zip(*claims, strict=True)]
        lines.append(f"| {' | '.join((figures, run, *columns))} |")
    return re.sub(r"(\d)e-0?(\d+)", r"\1·10<sup>−\2</sup>", "\n".join(lines)) + "\n"


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


def tex(text):
    """Return a text of the tables as LaTeX."""
    text = re.sub(r"\d+e-\d+", r"\\num{\g<0>}", text)
    return text.replace("±", r"$\pm$").replace("ε", r"$\epsilon$").replace("β₂", r"$\beta_2$").replace("%", r"\%")


def claims_tex():
    """Return the rows of the report's table of claims."""
    blocks = []
    for figures, run, claims in claims_table():
        rows = [(figures, run, *claims[0]), *(("", "", *claim) for claim in claims[1:])]
        blocks.append("\n".join(" & ".join(map(tex, row)) + r" \\" for row in rows))
    return "\n\\addlinespace\n".join(blocks) + "\n"


# What was run of figures 3, 5, 7, 9 and 11 in each configuration; the course's weights stand first.
CONFIGURATIONS = {
    "the course's weights": tuple(name for name in RUNS if name not in ("fig01_mlp_numpy", "fig13_convnet")),
    "PyTorch's own weights": ("pytorch_fig03", "pytorch_fig05", "depth_5_pytorch", "pytorch_fig09", "pytorch_fig11"),
    "He et al.'s weights": ("kaiming_fig03", "kaiming_fig05", "depth_5_kaiming", "kaiming_fig09", "kaiming_fig11"),
    "standardised pixels": tuple(f"standardize_fig{n:02d}" for n in (3, 5, 7, 9, 11)),
}


def configurations_tex():
    """Return the rows of the report's table of configurations: for each figure how many of its claims are borne out."""
    lines = []
    for configuration, names in CONFIGURATIONS.items():
        cells = [[configuration], [""]]
        for figure, name in zip(CONFIGURATIONS["the course's weights"], names, strict=True):
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
        lines.append("\n".join(" & ".join(map(tex, row)) + r" \\" for row in cells))
    return "\n\\addlinespace\n".join(lines) + "\n"


# Figure 11's run in each configuration.
LONG_RUNS = {
    "the course's weights, bfloat16": "fig11_five_layers_adam_long",
    "the course's weights": "precision_five_layers",
    "PyTorch's own weights": "pytorch_fig11",
    "He et al.'s weights": "kaiming_fig11",
    "standardised pixels": "standardize_fig11",
}


LONG_QUANTITIES = ("best_test_accuracy", "best_step", "best_train_accuracy", "test_accuracy", "n_collapses")
# Its first 5,000 steps in float32, with one change each.
CONTROLS = {
    "none": "collapses_none",
    "He et al.'s weights": "collapses_kaiming",
    "standardised pixels": "collapses_standardize",
    "learning rate 2e-4, not 2e-3": "collapses_rate_2e-4",
    "gradient's norm at most 1": "collapses_clip_1",
    "Adam's ε 1e-4, not 1e-8": "collapses_eps_1e-4",
    "Adam's ε 1e-16": "collapses_eps_1e-16",
    "Adam's β₂ 0.99, not 0.999": "collapses_beta2_0.99",
}
# Those of which every step is recorded, and what they are called in the figure of the lengths of their steps.
STEP_LENGTHS = {"none": "the course's weights", "kaiming": "He et al.'s weights", "standardize": "standardised pixels"}
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
    return "\n".join(" & ".join(map(tex, row)) + r" \\" for row in rows) + "\n"


def ablation_tex(network):
    """Return the rows of an ablation: an ingredient, what it adds to the start, and what it is worth at the end."""
    changes = ablation_changes(network)
    start, end = changes.pop(None)

    def difference(a, b):
        return "not run" if a is None or b is None else f"${a - b:+.3f}$"

    ends = ("not run" if accuracy is None else f"{accuracy:.3f}" for accuracy in (start, end))
    rows = [("defaults, and whole recipe", *ends)]
    rows += [(name, difference(alone, start), difference(end, without)) for name, (alone, without) in changes.items()]
    return "\n".join(" & ".join(map(tex, row)) + r" \\" for row in rows) + "\n"


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
