"""Train the NumPy MLP with a gradient that is wrong on purpose: its curve hardly shows it (report, section 6).

python report/wrong_gradients.py --mistake bias_averaged
"""

import sys
from pathlib import Path
from unittest import mock

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # imports are from the project's root
    import interrupts

    interrupts.end_in_one_line()

import mlp_numpy
import modules
import train_mlp_numpy
from flags import make_mlp_parser
from train_utils import run_script


class BiasAveraged(modules.LinearModule):
    """Takes the mean over the batch where dL/db is the sum; the loss has divided by B already."""

    def backward(self, dout, needs_input_grad=True):
        grad = super().backward(dout, needs_input_grad)
        self.grads["bias"] = dout.mean(axis=0)
        return grad


class SlopeOfWrongSign(modules.LeakyReLUModule):
    """Sends −a · dL/dx back through negative inputs, where a · dL/dx is right."""

    def backward(self, dout):
        return dout * self.is_positive - self.neg_slope * (dout * ~self.is_positive)


class CrossTermsLost(modules.SoftMaxModule):
    """Takes xᵢ (1 − xᵢ) for the Jacobian, as if each logit changed its own probability alone."""

    def backward(self, dout):
        return dout * self.out * (1 - self.out)


MISTAKES = {
    "bias_averaged": ("LinearModule", BiasAveraged),
    "slope_of_wrong_sign": ("LeakyReLUModule", SlopeOfWrongSign),
    "cross_terms_lost": ("SoftMaxModule", CrossTermsLost),
}


def train(args):
    """Train as `train_mlp_numpy` does, but with a module that `args.mistake` names in place of the right one."""
    name, wrong = MISTAKES[args.mistake]
    with mock.patch.object(mlp_numpy, name, wrong):
        return train_mlp_numpy.train(args)


def make_flags():
    """Return the parser of this script's flags."""
    parser = make_mlp_parser("wrong_gradients", "Train the NumPy MLP with a gradient that is wrong on purpose.")
    parser.groups["network"].add_argument(
        "--mistake", choices=MISTAKES, help="which gradient, and how; needed but to resume"
    )
    return parser


def check_mistake(parser, args):
    """Exit with status 2 where no mistake is named."""
    if args.mistake is None:
        parser.error(f"argument --mistake: got none, expected one of {', '.join(MISTAKES)}")


def main(argv=None):
    return run_script(train, make_flags(), argv, check=check_mistake)


if __name__ == "__main__":
    sys.exit(main())
