"""The ConvNet, a small VGG, in PyTorch (question 4)."""

from torch import nn


class ConvNet(nn.Module):
    """The layers of Table 1, first to last. Initial weights are PyTorch's defaults.

        conv 64, pool
        conv 128, pool
        conv 256, conv 256, pool
        conv 512, conv 512, pool
        conv 512, conv 512, pool
        linear 512 -> n_classes

    conv n: 3x3 convolution with n output channels, stride 1 and padding 1, then batch norm, then ReLU.
    pool: 3x3 max pooling, stride 2 and padding 1. The five poolings reduce an image from 32x32 to 1x1.
    """

    def __init__(self, n_channels, n_classes):
        raise NotImplementedError

    def forward(self, x):
        """Return logits, shape (n_batch, n_classes), for images of shape (n_batch, n_channels, 32, 32)."""
        raise NotImplementedError
