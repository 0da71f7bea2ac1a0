"""The course's scheme: its questions, its files, and the points that are given by hand."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # the project's directory
QUESTIONS = {
    "1.2": "the NumPy MLP",
    "2": "the PyTorch MLP",
    "3.1": "batch norm by autograd",
    "3.2b": "batch norm by hand",
    "3.2c": "its module",
    "4": "the ConvNet",
}
BY_HAND_POINTS = 41
BY_HAND = ("1.1 a", "1.1 b", "1.1 c", "3.2 a")
FILES = ("modules.py", "mlp_numpy.py", "mlp_pytorch.py", "custom_batchnorm.py", "convnet_pytorch.py")
VISIBILITIES = ("visible", "after_due_date", "after_published", "hidden")  # Gradescope's, of a check's results
# The report's equations that the right answer of a check follows from: for one example, then for a batch.
EQUATIONS = {
    "cross_entropy.forward": ("cross-entropy-forward", "batch-cross-entropy-forward"),
    "cross_entropy.backward": ("cross-entropy-backward", "batch-cross-entropy"),
    "softmax.forward": ("softmax-forward",),
    "softmax.backward": ("softmax-backward", "batch-softmax"),
    "softmax.large_logits": ("softmax-forward", "batch-softmax-cross-entropy"),
    "leaky_relu.forward": ("leaky-relu-forward",),
    "leaky_relu.backward": ("leaky-relu-backward", "batch-leaky-relu"),
    "linear.forward": ("linear-forward", "batch-linear-forward"),
    "linear.weight_gradient": ("linear-weight", "batch-linear-weight"),
    "linear.bias_gradient": ("linear-bias", "batch-linear-bias"),
    "linear.input_gradient": ("linear-input", "batch-linear-input"),
    "bn_autograd.forward": ("bn-statistics", "bn-forward"),
    "bn_function.forward": ("bn-statistics", "bn-forward"),
    "bn_function.input_gradient": ("bn-input",),
    "bn_function.gamma_gradient": ("bn-gamma",),
    "bn_function.beta_gradient": ("bn-beta",),
    "bn_function.eps": ("bn-forward", "bn-input"),
}
