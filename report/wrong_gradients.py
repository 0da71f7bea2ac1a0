"""Train the NumPy MLP with a gradient that is wrong on purpose: its curve hardly shows it (report, section 6).

python -m report.wrong_gradients --mistake bias_averaged
"""

import sys

import train_mlp_numpy
from mlp_numpy import MLP
from report.wrong_layers import BiasAveraged, CrossTermsLost, SlopeOfWrongSign
from training.flags import make_mlp_parser
from training.run import run_script


class BiasAveragedMLP(MLP):
    linear = BiasAveraged


class SlopeOfWrongSignMLP(MLP):
    activation = SlopeOfWrongSign


class CrossTermsLostMLP(MLP):
    output = CrossTermsLost


MISTAKES = {
    "bias_averaged": BiasAveragedMLP,
    "slope_of_wrong_sign": SlopeOfWrongSignMLP,
    "cross_terms_lost": CrossTermsLostMLP,
}


def train(args):
    """Train as `train_mlp_numpy` does, with the mistake that `args.mistake` names."""
    return train_mlp_numpy.train(args, network=MISTAKES[args.mistake])


def make_flags():
    """Return the parser of this script's flags."""
    parser = make_mlp_parser("wrong_gradients", "Train the NumPy MLP with a gradient that is wrong on purpose.")
    parser.groups["network"].add_argument("--mistake", choices=MISTAKES, help="which gradient is wrong; required")
    return parser


def check_flags(args):
    """Return what is wrong with the flags, or None."""
    if args.mistake is None:
        return f"argument --mistake: got none, expected one of {', '.join(MISTAKES)}"
    return None


def main(argv=None):
    return run_script(train, make_flags(), argv, check_flags)


if __name__ == "__main__":
    sys.exit(main())
