"""The PyTorch scripts' device, precision, optimiser, schedule, evaluation, figures and `Run`."""

import importlib
import os
import signal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from training import distributed
from training.muon import Muon
from training.plots import draw_confusion_matrix, draw_mistakes, draw_weights
from training.run import Run

# ---- Flags ---------------------------------------------------------------------------------------


def check_flags(args):
    """Return an error message if flags contradict each other or do not fit this machine, or None."""
    if args.momentum and args.optimizer not in ("sgd", "muon"):
        return f"argument --momentum: got {args.momentum} with --optimizer {args.optimizer}, expected sgd or muon"
    if args.weight_decay and args.optimizer == "muon":
        return f"argument --weight_decay: got {args.weight_decay} with --optimizer muon, which fixes the weights' norm"
    if args.shift != 4 and args.augment not in ("flip_crop", "flip_affine"):
        return f"argument --shift: got {args.shift} with --augment {args.augment}, expected flip_crop or flip_affine"
    if args.alternate and args.augment == "none":
        return "argument --alternate: got --augment none, expected an augmentation that flips"
    is_available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if args.device in is_available and not is_available[args.device]():
        return f"argument --device: got {args.device!r}, not available to PyTorch on this machine; use auto"
    if args.tensorboard:
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            return f"argument --tensorboard: {error}; pip install tensorboard"
    n_processes = distributed.expected_size()
    if args.batch_size % n_processes:
        return f"argument --batch_size: got {args.batch_size}, expected a multiple of the {n_processes} processes"
    return None


# ---- Device and precision ------------------------------------------------------------------------


def choose_device(name):
    """Return the `torch.device` for the value of `--device`."""
    if name == "auto":
        has_mps = torch.backends.mps.is_available() and distributed.size() == 1  # gloo does not support it
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if name != "cuda":
        return torch.device(name)
    torch.cuda.set_device(distributed.local_rank())
    torch.backends.cudnn.deterministic = True  # the same seed gives the same metrics
    torch.backends.cudnn.allow_tf32 = False  # float32 is float32
    return torch.device("cuda", distributed.local_rank())


def autocast(device, precision):
    """Return a context for matrix products and convolutions in `precision`, 'fp32' or 'bf16'."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def use_fast_memory_formats(network):
    """Convert a network's convolutions to the fastest memory formats, and return the format for its input."""
    network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        # On a CPU, contiguous is faster for the ConvNet's 512 channels of 4x4 and 2x2 pixels.
        if isinstance(layer, nn.Conv2d) and layer.out_channels >= 512 and layer.weight.device.type == "cpu":
            layer.to(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return torch.channels_last


# ---- Optimiser and schedule ----------------------------------------------------------------------


def make_optimizer(network, args):
    """Return the optimiser that the flags describe."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if args.optimizer == "muon":
        return Muon(parameters, args.learning_rate, args.momentum)
    options = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    options["fused"] = parameters[0].device.type in ("cpu", "cuda")  # one kernel per step; not all have it
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=args.momentum, **options)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer](parameters, **options)


def make_schedule(optimizer, args):
    """Return the learning-rate schedule that the flags describe."""
    schedules = torch.optim.lr_scheduler
    if args.lr_schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, args.max_steps)
    if args.lr_schedule == "onecycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        return schedules.OneCycleLR(optimizer, highest, total_steps=args.max_steps + 1, cycle_momentum=False)
    if args.lr_schedule == "triangle":
        rising = args.max_steps / 5

        def factor(step):
            return min((step + 1) / (rising + 1), (args.max_steps - step) / (args.max_steps - rising))

        return schedules.LambdaLR(optimizer, factor)
    return schedules.ConstantLR(optimizer, factor=1.0)


# ---- Evaluation ----------------------------------------------------------------------------------


def evaluate(network, images, args):
    """Return `{split: (mean loss, accuracy in [0, 1])}` for each split that has images.

    Of the training split, only the first `args.train_eval_size` images are evaluated (0: all).
    """
    limits = {"train": args.train_eval_size, "test": 0, "validation": 0}
    splits = (split for split in limits if len(images[split]))
    return {split: score(network, images[split], args.precision, limits[split]) for split in splits}


@torch.inference_mode()
def score(network, images, precision, limit=0):
    """Return mean loss and accuracy, in [0, 1], over the first `limit` images of a split (0: all)."""
    n = min(limit or len(images), len(images))
    distributed.copy_from_main(network.buffers())  # each process has its own running statistics
    loss, n_correct = 0.0, 0
    for logits, labels in _outputs(network, images, precision, distributed.share(np.arange(n))):
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        n_correct += (logits.argmax(dim=1) == labels).sum().item()
    loss, n_correct = distributed.total(loss, n_correct)
    return loss / n, n_correct / n


@torch.inference_mode()
def predict(network, images, precision):
    """Return class probabilities of all images of a split, float32 (n, n_classes)."""
    batches = _outputs(network, images, precision, np.arange(len(images)))
    return torch.cat([logits.softmax(dim=1) for logits, _ in batches]).cpu().numpy()


def _outputs(network, images, precision, index):
    """Yield the float32 logits and the labels of the examples at `index`, in batches, in evaluation mode."""
    network.eval()
    # The ConvNet's activations for 100 images fit into a CPU's cache.
    n_batch = 100 if images.memory_format == torch.channels_last else 1000
    for start in range(0, len(index), n_batch):
        inputs, labels = images.batch(index[start : start + n_batch])
        with autocast(inputs.device, precision):
            logits = network(inputs)
        yield logits.float(), labels
    network.train()


def confusion_matrix(classes, probabilities):
    """Return counts of shape (n_classes, n_classes), with a row for each true and a column for each predicted class."""
    n_classes = probabilities.shape[1]
    counts = np.zeros((n_classes, n_classes), int)
    np.add.at(counts, (classes, probabilities.argmax(axis=1)), 1)
    return counts


def first_layer(network, image_shape):
    """Return the first layer's weights, as images (n, *image_shape) or kernels (n, 3, height, width).

    With whitening, they are multiplied by the whitening layer's weights.
    """
    weights = next(p for p in network.parameters() if p.requires_grad)
    if weights.ndim == 4:
        return weights
    if isinstance(network.whitening, nn.Linear):
        weights = weights @ network.whitening.weight
    return weights.unflatten(1, image_shape)


def draw_results(network, images, class_names, title, args):
    """Return `{name: figure}`: the confusion matrix and, with `--pictures`, first-layer weights and worst mistakes."""
    dataset, probabilities = images.dataset, predict(network, images, args.precision)
    counts = confusion_matrix(dataset.classes, probabilities)
    figures = {"confusion_matrix": draw_confusion_matrix(counts, class_names, f"{title}:\ntest images")}
    if args.pictures:
        weights = first_layer(network, dataset.pixels.shape[1:]).detach().cpu().numpy()
        figures["first_layer"] = draw_weights(weights, f"{title}:\nfirst-layer weights")
        mistakes = dataset.pixels, dataset.classes, probabilities, class_names
        figures["worst_mistakes"] = draw_mistakes(*mistakes, f"{title}:\nlowest probability of the true class")
    return figures


# ---- The run -------------------------------------------------------------------------------------


class TorchRun(Run):
    """A `Run` with PyTorch checkpoints, several processes and TensorBoard. See `Run` for the arguments."""

    checkpoint_name = "checkpoint.pt"

    def __init__(self, args, data, parts, device):
        n_processes, rank = distributed.size(), distributed.rank()
        if n_processes > 1:
            n_local = int(os.environ["LOCAL_WORLD_SIZE"])
            self.command = ("torchrun", f"--nproc_per_node={n_local}" if n_local == n_processes else "...")
        name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
        config = {"device": name, "precision": args.precision}
        super().__init__(args, data, parts, rank=rank, n_processes=n_processes, **config)
        self.say(f"device {name}, precision {args.precision}" + f", {n_processes} processes" * (n_processes > 1))
        self._is_any_stopped = False
        self._writer = None
        if args.tensorboard and self.is_main and not self.is_complete:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.directory, purge_step=self.step + 1 if self.metrics else 0)

    def write_state(self, file, state):
        try:
            torch.save(state, file)
        except RuntimeError as error:  # on a full disk, whose OSError is its context
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def read_state(self, file):
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # PyTorch's message suggests weights_only=False, which would run code
            raise ValueError("it is incomplete, or contains more than tensors, numbers and strings") from error

    def log(self, **results):
        super().log(**results)
        if self._writer is not None:
            for name, value in self.metrics[-1].items():
                if not isinstance(value, list):
                    self._writer.add_scalar(name, value, self.step)
            self._writer.flush()

    def update(self, loss):
        # Signals reach processes at different times; the sum makes all of them stop after the same step.
        loss, n_stopped = distributed.total(loss, self.stopped_by is not None)
        self._is_any_stopped = n_stopped > 0
        super().update(loss / self.n_processes)

    def should_stop(self):
        if self.n_processes == 1:
            return super().should_stop()
        if self._is_any_stopped and self.stopped_by is None:
            self.stopped_by = signal.SIGTERM
        return self._is_any_stopped
