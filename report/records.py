"""The report's experiments, and the runs of them that are recorded: a file an experiment, report/results/NAME.jsonl.

Its first line is what all its runs share: script, flags, data set, versions. A line with a seed begins each run and
has what is its own, and how it ended; the lines after it are the run's evaluations, as in its metrics.jsonl.
"""

import json
from pathlib import Path
from typing import NamedTuple

from training.files import write_text

REPORT = Path(__file__).resolve().parent
RESULTS = REPORT / "results"
FLAG_FILES = REPORT / "experiments"
SEARCH = REPORT / "search.jsonl"
SEED = 42  # the first of each experiment's seeds; the others follow

# The improved MLP's rungs, each of which keeps the changes of those before it.
LADDER = ("0_start", "1_kaiming", "2_batch_norm", "3_onecycle", "4_augment", "5_dropout", "6_width")

# Gradients of the NumPy MLP that are wrong on purpose.
WRONG_GRADIENTS = ("bias_averaged", "slope_of_wrong_sign", "cross_terms_lost")

# Initial weights of the MLP; other configurations of figures 3 to 12 than the course's weights on pixels with the mean
# image taken off; what is changed, one at a time, to see what makes figure 11's network collapse.
INITS = ("normal", "kaiming", "pytorch")
ADAM_EPS = ("1e-16", "1e-8", "1e-4")
OTHER_CONFIGURATIONS = ("pytorch", "kaiming", "standardize")
JPEG_QUALITIES = (75, 50)
COLLAPSE_CONTROLS = ("none", "kaiming", "standardize", "rate_2e-4", "eps_1e-4", "clip_1", "eps_1e-16", "beta2_0.99")

# Name, which is that of the flag file in report/experiments: its script, and how many seeds it takes.
# Five where a run takes up to 3 minutes on two cores, three where it takes up to 25; fifteen of the defaults, by whose
# spread submissions are graded and bf16 is held against fp32.
EXPERIMENTS = {
    "fig01_mlp_numpy": ("train_mlp_numpy", 15),
    "fig03_mlp_pytorch": ("train_mlp_pytorch", 15),
    "fig05_adam": ("train_mlp_pytorch", 5),
    "fig07_five_layers": ("train_mlp_pytorch", 5),
    "fig09_long": ("train_mlp_pytorch", 5),
    "fig11_five_layers_adam_long": ("train_mlp_pytorch", 3),
    "fig13_convnet": ("train_convnet_pytorch", 3),
    **{f"learning_rate_{rate}": ("train_mlp_pytorch", 5) for rate in ("1e-5", "1e-4", "5e-4", "1e-3")},
    **{f"learning_rate_{rate}": ("train_mlp_pytorch", 5) for rate in ("5e-3", "1e-2", "2e-2", "5e-2", "1e-1")},
    **{f"momentum_{name}": ("train_mlp_pytorch", 5) for name in ("0.5", "0.9", "0.9_small_steps")},
    **{f"depth_{n}_normal": ("train_mlp_pytorch", 5) for n in range(5)},
    **{f"depth_{n}_{init}": ("train_mlp_pytorch", 5) for init in ("kaiming", "pytorch") for n in range(6)},
    # Figures 3, 5 and 7 in other configurations; with other initial weights, figure 7 is at depth 5.
    **{f"{name}_{figure}": ("train_mlp_pytorch", 5) for name in OTHER_CONFIGURATIONS for figure in ("fig03", "fig05")},
    "standardize_fig07": ("train_mlp_pytorch", 5),
    **{f"jpeg_{quality}": ("report/gradient_flow", 5) for quality in JPEG_QUALITIES},
    **{f"gradients_{init}_{by}": ("report/gradient_flow", 1) for init in INITS for by in ("sgd", "adam")},
    **{f"wake_eps_{eps}": ("report/gradient_flow", 1) for eps in ADAM_EPS},
    **{f"wrong_{mistake}": ("report/wrong_gradients", 5) for mistake in WRONG_GRADIENTS},
    "precision_mlp": ("train_mlp_pytorch", 15),
    "precision_convnet": ("train_convnet_pytorch", 1),
    **{f"ladder_{rung}": ("train_mlp_pytorch", 5) for rung in LADDER},
}

# Those that take a quarter of an hour a seed, or a quarter of an hour for all; reproduce.py runs them only by name.
LONG_EXPERIMENTS = {
    **{f"{name}_{figure}": ("train_mlp_pytorch", 5) for name in OTHER_CONFIGURATIONS for figure in ("fig11", "fig09")},
    **{f"collapses_{control}": ("report/gradient_flow", 3) for control in COLLAPSE_CONTROLS},
    "precision_five_layers": ("train_mlp_pytorch", 5),
    "answers_convnet": ("report/convnet_answers", 1),
    "best_mlp": ("train_mlp_pytorch", 3),
    "best_convnet": ("train_convnet_pytorch", 3),
}
EXPERIMENTS |= LONG_EXPERIMENTS

# ---- The file of an experiment -------------------------------------------------------------------

# What each kind of line has at least, and of which types.
NUMBER = (int, float)
SHARED_KEYS = {"experiment": str, "script": str, "flags": dict, "dataset": dict}
RUN_KEYS = {"seed": int, "date": str}
SUMMARY_KEYS = {"seconds": NUMBER}
EVALUATION_KEYS = {"step": int} | dict.fromkeys(("train_loss", "train_accuracy", "test_loss", "test_accuracy"), NUMBER)

ITS_OWN = ("seed", "date", "git_commit", "id")  # of each run, even where several are of one commit
# Flags that change nothing of what a run computes, or that its seed and data set say.
UNRECORDED_FLAGS = {"seed", "out_dir", "data_dir", "dataset", "resume", "quiet"}
# Of a summary, what the evaluations and the data set say.
UNRECORDED_SUMMARY = {"dataset", "last", "best"}


class Record(NamedTuple):
    """One recorded run.

    Attributes:
        seed: of the run.
        config: of its config.json, without `UNRECORDED_FLAGS`.
        metrics: of its metrics.jsonl, a list of dicts, one an evaluation.
        summary: of its summary.json, seconds, images per second and peak memory; None for a run that diverged.
        diverged: where it did, as in 'test loss is nan at step 300'; None for a whole run.
    """

    seed: int
    config: dict
    metrics: list
    summary: dict | None
    diverged: str | None

    @property
    def is_whole(self):
        """Whether it ended without diverging."""
        return self.summary is not None


def record_file(name):
    return RESULTS / f"{name}.jsonl"


def read_records(name):
    """Return the recorded runs of an experiment, in the order of their seeds.

    Raises:
        ValueError: the file is damaged, or has a run on synthetic images, of which no number is reported.
    """
    path = record_file(name)
    if not path.exists():
        return []
    run_again = "python -m report.reproduce --only NAME"
    remedy = f"restore it, as by git checkout, or take that seed out and run it again: {run_again}"
    records = []
    shared, *lines = read_objects(path, remedy)
    check_keys(shared, SHARED_KEYS, f"{path}, line 1", remedy)
    del shared["experiment"]
    for number, line in enumerate(lines, 2):
        where = f"{path}, line {number}"
        if not records or "seed" in line:
            check_keys({"flags": {}} | line, RUN_KEYS | {"flags": dict}, where, remedy)
            if records and line["seed"] <= records[-1].seed:
                raise ValueError(f"{where}, is damaged, expected a seed above {records[-1].seed}; {remedy}")
            summary, diverged = line.pop("summary", None), line.pop("diverged", None)
            if diverged is None:
                check_keys(summary, SUMMARY_KEYS, where, remedy)
            config = shared | line | {"flags": shared["flags"] | line.get("flags", {})}
            check_images(config, where, remedy)
            records.append(Record(line["seed"], config, [], summary, diverged))
        else:
            check_keys(line, EVALUATION_KEYS, where, remedy)
            metrics = records[-1].metrics
            if metrics and line["step"] <= metrics[-1]["step"]:
                raise ValueError(f"{where}, is damaged, expected a later step or a seed; {remedy}")
            metrics.append(line)
    if not all(record.metrics for record in records):
        raise ValueError(f"{path} is damaged, a seed has no evaluation; {remedy}")
    return records


def whole_runs(name):
    """Return the recorded runs of an experiment that did not diverge, as `read_records` does."""
    return [record for record in read_records(name) if record.is_whole]


def is_recorded(name, seed):
    return any(record.seed == seed for record in read_records(name))


def write_records(name, records):
    """Write the file of an experiment, whole or not at all."""
    records = sorted(records, key=lambda record: record.seed)
    shared = usual_items([record.config for record in records])
    shared = {key: value for key, value in shared.items() if key not in ITS_OWN}
    shared["flags"] = usual_items([record.config["flags"] for record in records])
    lines = [{"experiment": name, **shared}]
    for record in records:
        own = {key: record.config[key] for key in ITS_OWN if key in record.config}
        own |= unusual_items(record.config, shared | own | {"flags": record.config["flags"]})
        if flags := unusual_items(record.config["flags"], shared["flags"]):
            own["flags"] = flags
        ended = {"summary": record.summary} if record.is_whole else {"diverged": record.diverged}
        lines += [own | ended, *record.metrics]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(record_file(name), text)


def usual_items(dicts):
    """Return of each key that all of several dicts have the value that most have; of several such, the first."""
    keys = [key for key in dicts[0] if all(key in d for d in dicts)]
    values = {key: [d[key] for d in dicts] for key in keys}
    return {key: max(values[key], key=values[key].count) for key in keys}


def unusual_items(found, usual):
    """Return the items of a dict that another has not."""
    return {key: value for key, value in found.items() if key not in usual or usual[key] != value}


# ---- From a run's folder ---------------------------------------------------------------------------


def add_run(name, folder, diverged=None):
    """Add the run in a folder to its experiment's file.

    Args:
        diverged: where it did, for a run that has no summary.json because of that.

    Raises:
        ValueError: a file of the folder is damaged, or the run is on synthetic images.
        OSError: a file is missing.
    """
    write_records(name, [*read_records(name), read_run(folder, diverged)])


def read_run(folder, diverged=None):
    """Return the `Record` of the run in a folder; arguments and errors are those of `add_run`."""
    remedy = "remove its folder and run that seed again: python -m report.reproduce --only NAME"

    def read(file, keys):
        objects = read_objects(folder / file, remedy)
        for found in objects:
            check_keys(found, keys, folder / file, remedy)
        return objects

    (config,) = read("config.json", {key: SHARED_KEYS[key] for key in ("script", "flags", "dataset")} | RUN_KEYS)
    config.pop("launcher_pid", None)  # a process number
    check_images(config, folder / "config.json", remedy)
    flags = {flag: value for flag, value in config["flags"].items() if flag not in UNRECORDED_FLAGS}
    metrics, summary = read("metrics.jsonl", EVALUATION_KEYS), None
    if diverged is None:
        (summary,) = read("summary.json", SUMMARY_KEYS)
        summary = {key: value for key, value in summary.items() if key not in UNRECORDED_SUMMARY}
    return Record(config["seed"], config | {"flags": flags}, metrics, summary, diverged)


# ---- JSON and what is checked of it -----------------------------------------------------------------


def read_objects(path, remedy):
    """Return the JSON objects in a file: one, or in a .jsonl one a line.

    Raises:
        ValueError: it holds none, or anything else; the message ends with `remedy`.
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    objects = []
    for number, part in enumerate(text.splitlines() if path.suffix == ".jsonl" else [text], 1):
        try:
            found = json.loads(part)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path}, line {number}, is damaged, expected a JSON object; {remedy}")
        objects.append(found)
    if not objects:
        raise ValueError(f"{path} is damaged, it is empty; {remedy}")
    return objects


def check_keys(found, keys, where, remedy):
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in keys.items()):
        raise ValueError(f"{where}, is damaged, expected JSON with {', '.join(sorted(keys))}; {remedy}")


def check_images(config, where, remedy):
    check_keys(config["dataset"], {"is_synthetic": bool}, where, remedy)
    if config["dataset"]["is_synthetic"]:
        raise ValueError(f"{where}, is a run on synthetic images, expected CIFAR-10; remove it")
