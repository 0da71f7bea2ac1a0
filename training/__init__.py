"""What the training scripts share: flags, run directories, plots, and the PyTorch engine."""
