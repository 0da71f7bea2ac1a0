"""The MLP of `mlp_numpy.py` in PyTorch, with options for question 2."""

from torch import nn

from custom_batchnorm import CustomBatchNormAutograd, CustomBatchNormManualModule

INITS = ("normal", "kaiming", "pytorch")
BATCH_NORMS = {
    "none": None,
    "autograd": CustomBatchNormAutograd,
    "manual": CustomBatchNormManualModule,
    "torch": nn.BatchNorm1d,
}


class MLP(nn.Module):
    """Linear layers with leaky ReLUs between them; optional batch norm and dropout.

    Args:
        n_inputs: number of input features.
        n_hidden: sizes of the hidden layers; an empty sequence gives multinomial logistic regression.
        n_classes: number of classes.
        neg_slope: slope of the leaky ReLUs for negative inputs.
        init: weight initialisation. 'normal' draws from N(0, 0.0001²), as the course and the NumPy MLP do,
            'kaiming' from N(0, 2 / ((1 + neg_slope²) n)) for a layer of n inputs (He et al., 2015), both
            with biases at 0; 'pytorch' keeps PyTorch's default, U(−1/√n, 1/√n) for weights and biases.
        batch_norm: batch norm before each activation, a key of `BATCH_NORMS`; all keep running statistics.
        dropout: probability of dropping a hidden unit in training, in [0, 1).
        n_whitened: output size of a fixed linear layer before the first, for whitening; 0 for none.

    Raises:
        ValueError: an unknown `init` or `batch_norm`.
    """

    def __init__(
        self, n_inputs, n_hidden, n_classes, neg_slope, *, init="normal", batch_norm="none", dropout=0.0, n_whitened=0
    ):
        super().__init__()
        if init not in INITS:
            raise ValueError(f"init is {init!r}, expected one of {', '.join(INITS)}")
        if batch_norm not in BATCH_NORMS:
            raise ValueError(f"batch_norm is {batch_norm!r}, expected one of {', '.join(BATCH_NORMS)}")
        self.whitening = nn.Linear(n_inputs, n_whitened).requires_grad_(False) if n_whitened else nn.Identity()
        n_inputs = n_whitened or n_inputs
        modules = []
        for n in n_hidden:
            modules.append(nn.Linear(n_inputs, n))
            if batch_norm != "none":
                modules.append(BATCH_NORMS[batch_norm](n, track_running_stats=True))
            modules.append(nn.LeakyReLU(neg_slope))
            if dropout > 0:
                modules.append(nn.Dropout(dropout))
            n_inputs = n
        modules.append(nn.Linear(n_inputs, n_classes))
        self.layers = nn.Sequential(*modules)
        for module in self.layers:
            if isinstance(module, nn.Linear) and init != "pytorch":
                if init == "normal":
                    nn.init.normal_(module.weight, std=1e-4)
                else:
                    nn.init.kaiming_normal_(module.weight, a=neg_slope)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        """Return logits, shape (n_batch, n_classes), for `x` of n_batch rows or images of n_inputs numbers each."""
        return self.layers(self.whitening(x.flatten(1)))
