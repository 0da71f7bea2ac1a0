"""Search for the better networks' flags on validation images, by successive halving, and weigh their ingredients.

python -m report.search convnet
python -m report.search mlp --ablation
python -m report.search mlp --list

A search trains all candidates with the first budget of images, the better half of them with the next one, and so on.
An ablation trains the start with each ingredient alone, and all ingredients but for each. Every trial is a line of
report/search.jsonl, and is not run again. Only accuracy on validation images, held out of training, decides.
"""

import importlib
import json
import math
import shlex
import signal
import sys
import tempfile
from typing import NamedTuple

from report.runs import REPORT
from training.files import RunError
from training.flags import Parser, parse_args
from training.streams import robust_output

TRIALS = REPORT / "search.jsonl"
N_VALIDATION = 5000  # the last training images
SEED = 1000  # not a seed of the reported runs


class Search(NamedTuple):
    """What is searched.

    Attributes:
        script: that trains.
        ingredients: flags by their names; all of them together are what candidates begin with.
        candidates: flags that come after those.
        budgets: images that a trial of each round sees; one of the ablation sees as many as one of the first round.
    """

    script: str
    ingredients: dict
    candidates: list
    budgets: list


SEARCHES = {
    "convnet": Search(
        "train_convnet_pytorch",
        {
            "standardised pixels": "--preprocess standardize",
            "Muon, learning rate 0.1": "--optimizer muon --momentum 0.6 --learning_rate 0.1",
            "triangular learning rate": "--lr_schedule triangle",
            "label smoothing of 0.1": "--label_smoothing 0.1",
            "flips and crops by 2 pixels": "--augment flip_crop --shift 2",
            "batches of 128": "--batch_size 128",
        },
        [
            "",
            "--optimizer adam --momentum 0 --learning_rate 2e-3",
            "--momentum 0.9",
            "--label_smoothing 0.2",
            "--lr_schedule onecycle",
            "--batch_size 64",
            "--augment flip",
            "--learning_rate 0.05",
            "--learning_rate 0.2",
        ],
        [20_480, 40_960, 160_000],
    ),
    "mlp": Search(
        "train_mlp_pytorch",
        {
            "standardised pixels": "--preprocess standardize",
            "AdamW, learning rate 0.002": "--optimizer adamw --learning_rate 2e-3",
            "triangular learning rate": "--lr_schedule triangle",
            "label smoothing of 0.1": "--label_smoothing 0.1",
            "He et al.'s weights": "--init kaiming",
            "batch norm": "--batch_norm torch",
            "flips and deformations": "--augment flip_affine",
            "weight decay of 0.05": "--weight_decay 0.05",
            "500 whitened components": "--whiten 500",
            "three layers: 2000, 1000, 500": "--dnn_hidden_units 2000,1000,500",
        },
        [
            "",
            "--dropout 0.1",
            "--augment flip_crop",
            "--whiten 300",
            "--whiten 1000",
            "--dnn_hidden_units 3000,500,3000,500",
        ],
        [1_000_000, 4_000_000, 10_000_000],
    ),
}

# ---- Trials ------------------------------------------------------------------------------------


def run_trial(script, flags, images, seed):
    """Train on `images` images as the flags say, and return what is recorded of it.

    Raises:
        KeyboardInterrupt: a signal has ended it.
    """
    module = importlib.import_module(script)
    parser = module.make_flags()
    n_steps = math.ceil(images / parser.parse_args(shlex.split(flags)).batch_size)
    with tempfile.TemporaryDirectory() as folder:
        own = f"--dataset cifar10 --seed {seed} --max_steps {n_steps} --eval_freq {n_steps} --train_eval_size 5000"
        own += f" --validation_size {N_VALIDATION} --quiet"
        args = parse_args(parser, [*shlex.split(f"{flags} {own}"), "--out_dir", f"{folder}/run"])
        run = module.train(args)
    if not run.is_complete:
        raise KeyboardInterrupt
    last = run.metrics[-1]
    kept = ("validation_accuracy", "validation_loss", "train_accuracy", "seconds")
    found = {"script": script, "flags": flags, "images": images, "seed": seed}
    return found | {name: last[name] for name in kept} | {"precision": args.precision}


def read_trials():
    """Return the recorded trials by script, flags, images and seed."""
    trials = map(json.loads, TRIALS.read_text(encoding="utf-8").splitlines() if TRIALS.exists() else [])
    return {(t["script"], t["flags"], t["images"], t["seed"]): t for t in trials}


def trial(*key):
    """Return the record of a trial, which is run where there is none, and print it."""
    found = read_trials().get(key)
    if found is None:
        found = run_trial(*key)
        with TRIALS.open("a") as file:  # one write, beside which another search may have its own
            file.write(json.dumps(found) + "\n")
    print_trial(found)
    return found


def print_trial(t):
    print(
        f"{t['images']:>9} images, validation {t['validation_accuracy']:.4f}, train {t['train_accuracy']:.4f}, "
        f"{t['seconds']:.0f} s: {t['flags'] or '(defaults)'}",
        flush=True,
    )


# ---- Search and ablation ------------------------------------------------------------------------


def halve(search):
    """Run the rounds of a search, and return the flags that are left."""
    flags = [" ".join([*search.ingredients.values(), own]).strip() for own in search.candidates]
    for images in search.budgets:
        trials = [trial(search.script, f, images, SEED) for f in flags]
        trials.sort(key=lambda t: t["validation_accuracy"], reverse=True)
        flags = [t["flags"] for t in trials[: math.ceil(len(trials) / 2)]]
    return flags


def ablations(search):
    """Return the flags of an ablation, `{ingredient: (it alone, all but it)}`; the key None has no flags, and all."""
    parts = search.ingredients
    both = {name: (own, " ".join(f for f in parts.values() if f != own)) for name, own in parts.items()}
    return {None: ("", " ".join(parts.values()))} | both


def ablate(search):
    """Run the ablation of a search, from both ends."""
    for end in (0, 1):
        for both in ablations(search).values():
            trial(search.script, both[end], search.budgets[0], SEED)


def main(argv=None):
    parser = Parser(prog="search.py", description=__doc__.splitlines()[0])
    parser.add_argument("search", choices=SEARCHES)
    parser.add_argument("--ablation", action="store_true", help="weigh the ingredients instead of the candidates")
    parser.add_argument("--list", action="store_true", help="print the recorded trials, best first, and run nothing")
    args = parser.parse_args(argv)
    search = SEARCHES[args.search]
    try:
        if args.list:
            trials = [t for t in read_trials().values() if t["script"] == search.script]
            for t in sorted(trials, key=lambda t: (t["images"], t["validation_accuracy"]), reverse=True):
                print_trial(t)
            return 0
        ablate(search) if args.ablation else halve(search)
    except (RunError, OSError, ValueError, MemoryError) as error:
        print(f"search.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("search.py: interrupted; the same command continues", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    with robust_output():
        sys.exit(main())
