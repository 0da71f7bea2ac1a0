"""Train the NumPy MLP with a gradient that is wrong on purpose: two of three mistakes do not show in the curve.

python -m report.wrong_gradients --mistake bias_averaged
"""

import sys

import train_mlp_numpy
from mlp_numpy import MLP
from modules import LeakyReLUModule, LinearModule, SoftMaxModule
from training.run import run_script


class BiasAveraged(LinearModule):
    """The bias gradient is averaged over the batch instead of summed; the loss is already a mean."""

    def backward(self, dout, needs_input_grad=True):
        dx = super().backward(dout, needs_input_grad)
        self.grads["bias"] = dout.mean(axis=0)
        return dx


class SlopeOfWrongSign(LeakyReLUModule):
    """The gradient of a negative input is −a · dL/dx instead of a · dL/dx."""

    def backward(self, dout):
        return dout * self.is_positive - self.neg_slope * (dout * ~self.is_positive)


class CrossTermsLost(SoftMaxModule):
    """The Jacobian is diagonal, xᵢ (1 − xᵢ), as if each logit changed its own probability only."""

    def backward(self, dout):
        return dout * self.out * (1 - self.out)


MISTAKES = {
    "bias_averaged": {"linear": BiasAveraged},
    "slope_of_wrong_sign": {"activation": SlopeOfWrongSign},
    "cross_terms_lost": {"output": CrossTermsLost},
}


def train(args):
    """Train as `train_mlp_numpy` does, with the mistake that `args.mistake` names."""
    return train_mlp_numpy.train(args, network=type("MLP", (MLP,), MISTAKES[args.mistake]))


def make_flags():
    """Return the parser of this script's flags: those of train_mlp_numpy.py and one more."""
    parser = train_mlp_numpy.make_flags()
    parser.prog, parser.description = "wrong_gradients.py", "Train the NumPy MLP with a gradient that is wrong."
    parser.set_defaults(script="wrong_gradients")
    add = parser.groups["network"].add_argument
    add("--mistake", choices=MISTAKES, default="bias_averaged", help="which gradient is wrong")
    return parser


def main(argv=None):
    return run_script(train, make_flags(), argv)


if __name__ == "__main__":
    sys.exit(main())
