"""What the two PyTorch scripts share: everything between their flags and their network.

`train_network` trains a network as the flags say, in one process or, started by `torchrun`, in several.
"""

import contextlib
import math

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from cifar10_utils import CLASSES, get_cifar10
from figures import draw_confusion_matrix, draw_mistakes, draw_weights
from muon import Muon
from run_folder import RunError
from torch_images import DeviceImages, augmentation, mirrored_alternately, preprocessing, whitening
from torch_run import Processes, TorchRun

# ---- Device and precision ----------------------------------------------------------------------


def choose_device(name, local_rank=0, n_processes=1):
    """Return the `torch.device` of a `--device`."""
    if name == "auto":
        has_mps = torch.backends.mps.is_available() and n_processes == 1  # gloo knows nothing of it
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    if name != "cuda":
        return torch.device(name)
    torch.cuda.set_device(local_rank)
    # The same seed gives the same metrics, and fp32 means it.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", local_rank)


def choose_precision(name, device, is_convolutional):
    """Return 'fp32' or 'bf16' for a `--precision`.

    'auto' is bf16 where the device multiplies in it without a detour and a step is faster with it. On
    CPUs both networks' are, see `tests/benchmarks/networks_pytorch.py`; on GPUs, where nobody has measured it,
    an MLP of small products stays in fp32. The rule asks the hardware and no clock, so that a machine comes to
    one answer each time.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if is_convolutional and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # the latter implies AMX-BF16
    is_native = device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in names)
    return "bf16" if is_native else "fp32"


def autocast(device, precision):
    """Return a context in which matrix products and convolutions run in `precision`."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def lay_out(network):
    """Put a network's convolutions into the memory formats in which they are fastest, and return the images'."""
    # Channels last needs no reordering: evaluation takes two thirds of the time on a CPU. But in the ConvNet's layers
    # of 512 channels, whose images are 4x4 and 2x2, its products are slow: a step of 32 images takes a quarter more.
    network.to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.out_channels >= 512 and layer.weight.device.type == "cpu":
            layer.to(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return torch.channels_last


# ---- Optimiser and schedule --------------------------------------------------------------------


def make_optimizer(network, args):
    """Return the optimiser that the flags describe."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    if args.optimizer == "muon":
        return Muon(parameters, args.learning_rate, args.momentum)
    options = {"lr": args.learning_rate, "weight_decay": args.weight_decay}
    # One kernel for a whole step: four fifths of the time for the ConvNet's Adam on a CPU.
    options["fused"] = next(network.parameters()).device.type in ("cpu", "cuda")
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=args.momentum, **options)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[args.optimizer](parameters, **options)


def make_schedule(optimizer, args):
    """Return the learning rate's schedule over `args.max_steps` steps."""
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


# ---- Training ----------------------------------------------------------------------------------


@contextlib.contextmanager
def out_of_memory_as_memory_error():
    """Raise PyTorch's lack of memory, a RuntimeError among others, as what it is."""
    try:
        yield
    except RuntimeError as error:
        message = str(error).split("\n")[0]
        if "out of memory" in message or "can't allocate memory" in message:
            raise MemoryError(message) from error
        raise


def train_network(args, make_network, *, dtype=torch.float32):
    """Train as the flags say, and return the `Run`.

    Args:
        args: flags from `flags.parse_args`.
        make_network: takes nothing, returns the network, which takes images (n, 3, 32, 32) and returns
            logits (n, 10).
        dtype: of parameters and images; float64 is for comparisons.

    Raises:
        RunError: the run diverges; what is to be resumed is damaged, or was trained on other data; processes do not
            meet, have other flags or images, or end.
        DataError: there are no images, or they are damaged.
        OSError: the run folder cannot be written.
        MemoryError: the device or the machine has too little memory.
    """
    with out_of_memory_as_memory_error(), Processes() as processes:
        device = choose_device(args.device, processes.local_rank, processes.size)
        with processes.first_on_its_machine():
            data = get_cifar10(
                args.data_dir,
                validation_size=args.validation_size,
                dataset=args.dataset,
                seed=args.seed,
                synthetic_size=args.synthetic_size,
            )
        flags = {k: v for k, v in vars(args).items() if k not in ("data_dir", "out_dir", "resume", "quiet")}
        if processes.from_main((flags, data["train"].origin)) != (flags, data["train"].origin):
            raise RunError(f"process {processes.rank} has other flags or other images than process 0")
        torch.manual_seed(args.seed)
        network = make_network().to(device, dtype)
        is_convolutional = any(isinstance(module, nn.Conv2d) for module in network.modules())
        memory_format = lay_out(network) if is_convolutional else torch.contiguous_format
        mean, scale = preprocessing(data["train"], args.preprocess)
        images = {split: DeviceImages(d, device, dtype, mean, scale, memory_format) for split, d in data.items()}
        if getattr(args, "whiten", 0):
            network.whitening.load_state_dict(whitening(images["train"], args.whiten))

        precision = processes.from_main(choose_precision(args.precision, device, is_convolutional))
        run = TorchRun(args, data, processes, device=describe(device), precision=precision)
        run.say(f"on {describe(device)} in {precision}" + (f", {processes.size} processes" * (processes.size > 1)))
        optimizer = make_optimizer(network, args)
        schedule = make_schedule(optimizer, args)
        parts = {"network": network, "optimizer": optimizer, "schedule": schedule}

        def state():
            return {name: part.state_dict() for name, part in parts.items()}

        def load(state):
            for name, part in parts.items():
                try:
                    part.load_state_dict(state[name])
                except RuntimeError as error:  # what modules raise where keys or shapes differ
                    raise ValueError(error) from error

        run.restore(load)
        data["train"].position = run.step * args.batch_size
        model = processes.parallel(network)
        if args.compile:
            model = torch.compile(model)

        def evaluate(split):
            return score(network, images[split], precision, processes, args.train_eval_size if split == "train" else 0)

        def figures():
            return draw_results(network, images["test"], data["test"], precision, run.title, args.pictures)

        mirrored_first = np.random.default_rng(args.seed).random(len(images["train"])) < 0.5  # of --alternate
        for _ in run.steps(evaluate, state, figures):
            # All that is random in a step follows from seed and step, so that a run can be resumed at any.
            rng = np.random.default_rng([args.seed, run.step])
            torch.manual_seed(int(rng.integers(2**32)) + processes.rank)
            position, index = data["train"].position, data["train"].next_index(args.batch_size)
            is_mirrored = mirrored_alternately(index, position, mirrored_first) if args.alternate else None
            places = augmentation(args.augment, len(index), rng, args.shift, is_mirrored)
            places = {name: processes.share(part) for name, part in places.items()}
            batch = images["train"].batch(processes.share(index), **places)
            loss = training_step(model, optimizer, *batch, precision, args.label_smoothing)
            schedule.step()
            run.loss = processes.total(loss.item())[0] / processes.size
    return run


def training_step(model, optimizer, inputs, labels, precision, label_smoothing=0.0):
    """Take one step on one batch and return its loss, a scalar tensor."""
    with autocast(inputs.device, precision):
        logits = model(inputs)
    loss = F.cross_entropy(logits.to(inputs.dtype), labels, label_smoothing=label_smoothing)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def describe(device):
    """Return a device's name for the record."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


# ---- Evaluation --------------------------------------------------------------------------------


@contextlib.contextmanager
def evaluation(network):
    """Put the network into evaluation for a while, without gradients."""
    network.eval()
    with torch.inference_mode():
        yield
    network.train()


def outputs(network, images, precision, index):
    """Yield logits, float32 or more, and labels of the examples at `index`, batch by batch."""
    # On a CPU, activations of 100 images stay in its cache: the ConvNet takes three quarters of the time of 500.
    n_batch = 100 if images.memory_format == torch.channels_last else 1000
    for start in range(0, len(index), n_batch):
        inputs, labels = images.batch(index[start : start + n_batch])
        with autocast(inputs.device, precision):
            logits = network(inputs)
        yield logits.to(images.dtype), labels


def score(network, images, precision, processes, limit=0):
    """Return mean loss and accuracy, in [0, 1], over the first `limit` examples (0: all), shared out over processes."""
    n = min(limit or len(images), len(images))
    if processes.size > 1:
        for buffer in network.buffers():  # each process has running statistics of its own
            dist.broadcast(buffer, 0)
    loss, n_correct = 0.0, 0
    with evaluation(network):
        for logits, labels in outputs(network, images, precision, processes.share(np.arange(n))):
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            n_correct += (logits.argmax(dim=1) == labels).sum().item()
    loss, n_correct = processes.total(loss, n_correct)
    return loss / n, n_correct / n


def predict(network, images, precision):
    """Return the probability of each class for each image of a split, float32 (n, n_classes)."""
    with evaluation(network):
        batches = outputs(network, images, precision, np.arange(len(images)))
        return torch.cat([logits.softmax(dim=1) for logits, _ in batches]).float().cpu().numpy()


def confusion_matrix(classes, probabilities):
    """Return how many examples of each class (a row) were taken for which (a column), (n_classes, n_classes)."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(counts, (classes, probabilities.argmax(axis=1)), 1)
    return counts


def first_layer(network, image_shape):
    """Return the weights that meet images, the first of a fitting shape: (n, *image_shape), or kernels (n, 3, h, w).

    Those that come after a whitening are multiplied by its own. None where no parameter fits.
    """
    whitening = getattr(network, "whitening", None)
    for weights in (parameter for parameter in network.parameters() if parameter.requires_grad):
        if weights.ndim == 2 and isinstance(whitening, nn.Linear):
            weights = weights @ whitening.weight
        if weights.ndim == 2 and weights.shape[1] == math.prod(image_shape):
            return weights.unflatten(1, image_shape)
        if weights.ndim == 4 and weights.shape[1] == image_shape[0]:
            return weights
    return None


def draw_results(network, images, dataset, precision, title, with_pictures):
    """Return figures: the confusion matrix on a split; `with_pictures` also first-layer weights and worst mistakes."""
    probabilities = predict(network, images, precision)
    counts = confusion_matrix(dataset.classes, probabilities)
    figures = {"confusion_matrix": draw_confusion_matrix(counts, CLASSES, f"{title}: test images")}
    if with_pictures:
        weights = first_layer(network, dataset.pixels.shape[1:])
        if weights is not None:
            weights = weights.detach().float().cpu().numpy()
            figures["first_layer"] = draw_weights(weights, f"{title}: weights of the first layer")
        title = f"{title}: test images whose own class got the least probability"
        figures["worst_mistakes"] = draw_mistakes(dataset.pixels, dataset.classes, probabilities, CLASSES, title)
    return figures
