"""The ConvNet of Table 1, a small VGG, in PyTorch (question 4)."""

from torch import nn

# Output channels of the convolutions, with the poolings between them.
LAYERS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


class ConvNet(nn.Module):
    """VGG (Simonyan and Zisserman, 2015) with batch norm, for 32x32 images.

    Each convolution is 3x3 with stride 1 and padding 1, followed by batch norm and ReLU. Max pooling
    is 3x3 with stride 2 and padding 1. It halves the side of the images: 32, 16, 8, 4, 2, 1. Weights
    have PyTorch's default initialisation.

    Args:
        n_channels: number of input channels, 3 for colour images.
        n_classes: number of classes.

    Attributes:
        features: convolutions and poolings, from (n_batch, n_channels, 32, 32) to (n_batch, 512, 1, 1).
        classifier: linear layer from 512 features to n_classes.
    """

    def __init__(self, n_channels, n_classes):
        super().__init__()
        layers = []
        for layer in LAYERS:
            if layer == "pool":
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
            else:
                layers += [nn.Conv2d(n_channels, layer, kernel_size=3, padding=1), nn.BatchNorm2d(layer), nn.ReLU()]
                n_channels = layer
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(n_channels, n_classes)

    def forward(self, x):
        """Return logits, shape (n_batch, n_classes), for images of shape (n_batch, n_channels, 32, 32)."""
        return self.classifier(self.features(x).flatten(1))
