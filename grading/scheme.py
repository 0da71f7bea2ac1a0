"""The course's scheme: its questions, its files, and the points that are given by hand."""

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
