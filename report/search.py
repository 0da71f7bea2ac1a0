"""Train the better networks with other flags, and weigh their ingredients, on validation images.

python -m report.search mlp --images 1000000 --add="--dropout 0.1"
python -m report.search convnet --ablation

The first command trains all ingredients and the flags of --add. An ablation trains each ingredient alone, and all of
them but each. Every trial is a line of report/search.jsonl, and is not run again. Only accuracy on validation images,
held out of training, decides.
"""

import importlib
import json
import math
import shlex
import sys
import tempfile
from typing import NamedTuple

from report.runs import REPORT
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
    parser.add_argument("network", choices=SEARCHES)
    parser.add_argument("--ablation", action="store_true", help="train each ingredient alone, and all but each")
    parser.add_argument("--add", metavar="FLAGS", default="", help="flags of one trial after the recipe's")
    parser.add_argument("--images", type=integer(1), help="that it is trained on (default: as in the ablation)")
    parser.add_argument("--seed", type=integer(0), default=SEARCH_SEED, help="of that trial (default: %(default)s)")
    args = parser.parse_args(argv)
    search, again = SEARCHES[args.network], "; the same command continues"
    if args.ablation:
        if args.add or args.images or args.seed != SEARCH_SEED:
            parser.error("--ablation has its own flags, images and seed: omit --add, --images and --seed")
        return run_command("search.py", ablate, search, after_interrupt=again)
    flags = f"{search.recipe} {args.add}".strip()
    images = args.images or search.images
    return run_command("search.py", trial, search.script, flags, images, args.seed, after_interrupt=again)


if __name__ == "__main__":
    sys.exit(main())
