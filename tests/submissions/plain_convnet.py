# ruff: noqa
import torch.nn.functional as F
from torch import nn


class ConvNet(nn.Module):
    def __init__(self, n_channels, n_classes):
        super().__init__()
        sizes = [n_channels, 64, 128, 256, 256, 512, 512, 512, 512]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=False) for a, b in zip(sizes, sizes[1:]))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in sizes[1:])
        self.last = nn.Linear(512, n_classes)

    def forward(self, x):
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = F.relu(norm(conv(x)))
            if number in (0, 1, 3, 5, 7):
                x = F.max_pool2d(x, 3, 2, 1)
        return self.last(x.view(x.size(0), -1))
