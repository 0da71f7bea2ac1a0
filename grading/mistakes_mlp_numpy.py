"""Known mistakes of the MLP in NumPy."""

# ruff: noqa: E501, a row of a table stays on its line

from grading.mistakes import WRITTEN_SLOPES, changed, make, with_slope
from modules import LeakyReLUModule

A, S, M = "LeakyReLUModule", "SoftMaxModule", "mlp_numpy.MLP"


def _modules_of(change):
    """Return a change of the NumPy MLP: `change(modules, neg_slope)` returns what it runs forward and backward."""

    def put_into(base):
        class Wrong(base):
            def __init__(self, n_inputs, n_hidden, n_classes, neg_slope, **kwargs):
                super().__init__(n_inputs, n_hidden, n_classes, neg_slope, **kwargs)
                self.modules = change(self.modules, neg_slope)

        return Wrong

    return put_into


def _shared(modules, _):
    first = next((m for m in modules if type(m).__name__ == A), None)
    return [first if type(m).__name__ == A else m for m in modules]


def _skipping(is_kept):
    def backward(right, self, dout, *args):
        for module in [m for m in reversed(self.modules) if is_kept(m, self)]:
            dout = module.backward(dout)

    return changed(backward=backward)


MISTAKES = [
    *make("mlp_numpy.backward", M,
        ("MLP.backward divides by the batch", changed(backward=lambda right, self, dout, *a: right(dout / len(dout), *a))),
        harmless=True),
    *make("mlp_numpy.forward", M,
        ("the MLP does not hand neg_slope on to its activations (0.01 acts)", with_slope(lambda a: 0.01)),
        *WRITTEN_SLOPES,
        ("the MLP does not hand neg_slope on to its activations (0 acts)", with_slope(lambda a: 0.0)),
        ("the MLP hands neg_slope on with the wrong sign", with_slope(lambda a: -a)),
        ("there are no activations between the linear layers", with_slope(lambda a: 1.0)),
        ("the MLP lacks its softmax", _modules_of(lambda modules, _: modules[:-1])),
        ("an activation stands before the softmax",
         _modules_of(lambda modules, slope: [*modules[:-1], LeakyReLUModule(slope), modules[-1]])),
    ),
    *make("mlp_numpy.backward", M,
        ("backward skips the activations", _skipping(lambda m, mlp: type(m).__name__ != A)),
        ("backward skips the softmax", _skipping(lambda m, mlp: type(m).__name__ != S)),
        ("backward forgets the first layer", _skipping(lambda m, mlp: m is not mlp.modules[0])),
    ),
    *make("mlp_numpy.backward", M,
        ("all layers share one LeakyReLUModule, which knows only the last batch that it has seen", _modules_of(_shared)),
        carried=False),
]  # fmt: skip
