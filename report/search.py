"""Train the better networks with other flags, and weigh their ingredients, on validation images.

python -m report.search mlp --add="--dropout 0.1"
python -m report.search convnet --ablation

The first command trains all ingredients and the flags of --add. An ablation trains each ingredient alone, and all of
them but each. Every trial is a line of report/search.jsonl, and is not run again. It has the accuracy on validation
images, held out of training. (The better ConvNet also alternates flips, which changes nothing in its first epoch.)
"""

import importlib
import json
import math
import shlex
import sys
import tempfile
from typing import NamedTuple

from report.runs import REPORT
from training import engine
from training.files import RunError
from training.flags import Parser, integer, parse_args
from training.run import run_command

TRIALS = REPORT / "search.jsonl"
N_VALIDATION = 5000  # the last training images
SEARCH_SEED = 1000  # not a seed of the reported runs


class Search(NamedTuple):
    """A recipe, whose ingredients an ablation weighs.

    Attributes:
        script: that trains.
        ingredients: flags by their names.
        images: that each network of the ablation is trained on.
    """

    script: str
    ingredients: dict
    images: int

    @property
    def recipe(self):
        return " ".join(self.ingredients.values())


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
        20_480,
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
        1_000_000,
    ),
}

# ---- Trials --------------------------------------------------------------------------------------


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
        check = getattr(module, "check_flags", engine.check_flags)
        args = parse_args(parser, [*shlex.split(f"{flags} {own}"), "--out_dir", f"{folder}/run"], check)
        run = module.train(args)
    if not run.is_complete:
        raise KeyboardInterrupt
    last = run.metrics[-1]
    kept = ("validation_accuracy", "validation_loss", "train_accuracy", "seconds")
    found = {"script": script, "flags": flags, "images": images, "seed": seed}
    return found | {name: last[name] for name in kept} | {"precision": args.precision}


def read_trials():
    """Return the recorded trials by script, flags, images and seed.

    Raises:
        RunError: the file is damaged.
    """
    found = {}
    for number, line in enumerate(TRIALS.read_text(encoding="utf-8").splitlines() if TRIALS.exists() else [], 1):
        try:
            t = json.loads(line)
            found[t["script"], t["flags"], t["images"], t["seed"]] = t
        except (ValueError, LookupError, TypeError) as error:
            advice = "correct it, or restore the committed file with git checkout"
            raise RunError(f"{TRIALS}, line {number}, is damaged ({error}): {advice}") from None
    return found


def validation_accuracy(*key):
    """Return what is recorded of a trial.

    Raises:
        RunError: nothing is.
    """
    if (t := read_trials().get(key)) is None:
        raise RunError(f"{TRIALS} lacks the trial {key}: run it with python -m report.search")
    return t["validation_accuracy"]


def trial(*key):
    """Print a trial's record. Run the trial first if it is not recorded."""
    t = read_trials().get(key)
    if t is None:
        t = run_trial(*key)
        with TRIALS.open("a") as file:  # a single write, so that concurrent searches do not mix lines
            file.write(json.dumps(t) + "\n")
    print(
        f"{t['images']:>9} images, validation {t['validation_accuracy']:.4f}, train {t['train_accuracy']:.4f}, "
        f"{t['seconds']:.0f} s: {t['flags'] or '(defaults)'}",
        flush=True,
    )


def ablations(search):
    """Return the flags of an ablation, `{ingredient: (it alone, all but it)}`; the key None has no flags, and all."""
    parts = search.ingredients
    both = {name: (own, " ".join(f for f in parts.values() if f != own)) for name, own in parts.items()}
    return {None: ("", search.recipe)} | both


def ablate(search):
    """Run all trials of an ablation."""
    for end in (0, 1):
        for both in ablations(search).values():
            trial(search.script, both[end], search.images, SEARCH_SEED)


# ---- Command line --------------------------------------------------------------------------------


def main(argv=None):
    parser = Parser(prog="search.py", description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=SEARCHES, help="network whose recipe is trained")
    parser.add_argument("--add", metavar="FLAGS", help="flags added to the recipe, as in --add='--dropout 0.1'")
    parser.add_argument("--images", type=integer(1), help="number of training images (default: as in the ablation)")
    parser.add_argument("--seed", type=integer(0), default=SEARCH_SEED, help="seed of the trial (default: 1000)")
    ablation = "run the trials of the ablation instead: each ingredient alone, and the recipe without each"
    parser.add_argument("--ablation", action="store_true", help=ablation)
    args = parser.parse_args(argv)
    search, again = SEARCHES[args.network], "; the same command continues after the last finished trial"
    if args.ablation:
        if args.add or args.images or args.seed != SEARCH_SEED:
            parser.error("--ablation has its own flags, images and seed: omit --add, --images and --seed")
        return run_command("search.py", ablate, search, after_interrupt=again)
    flags = f"{search.recipe} {args.add or ''}".strip()
    try:
        shlex.split(flags)
    except ValueError as error:
        parser.error(f"argument --add: {error}: {args.add}")
    images = args.images or search.images
    return run_command("search.py", trial, search.script, flags, images, args.seed, after_interrupt=again)


if __name__ == "__main__":
    sys.exit(main())
