"""The experiments of the report: script, flags and number of seeds of each."""

import shlex
from pathlib import Path
from typing import NamedTuple

REPORT = Path(__file__).resolve().parent
SEED = 42  # the first seed of each experiment; the others follow

MLP, CONVNET, FLOW = "train_mlp_pytorch", "train_convnet_pytorch", "report.gradient_flow"
SGD_RATES = ("1e-5", "1e-4", "5e-4", "1e-3", "5e-3", "1e-2", "2e-2", "5e-2", "1e-1")  # besides the default, 2e-3
ADAM_RATES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3", "5e-3")
WIDTHS = (900, 500, 350, 150, 50)  # hidden layers of the original's figures 7, 8, 11 and 12
FIVE_LAYERS = "--dnn_hidden_units " + ",".join(map(str, WIDTHS))
LONG_RUN = f"{FIVE_LAYERS} --optimizer adam --max_steps 50000 --eval_freq 500"
COLLAPSE_RUN = f"{FIVE_LAYERS} --optimizer adam --max_steps 5000 --train_eval_size 1000"
FLOW_RUN = f"{FIVE_LAYERS} --max_steps 2000 --eval_freq 20 --train_eval_size 1000"


class Experiment(NamedTuple):
    """One setting, run with several seeds.

    Attributes:
        script: module that trains, as 'train_mlp_pytorch' or 'report.gradient_flow'.
        seeds: how many.
        flags: for the script, beside seed and directory; None if they are in report/experiments/NAME.args.
        is_long: a seed takes 20 minutes or more, so that it is run only if it is named.
    """

    script: str
    seeds: int
    flags: str | None = None
    is_long: bool = False

    def arguments(self, name):
        """Return the flags as arguments, in the project's root."""
        return [f"@report/experiments/{name}.args"] if self.flags is None else shlex.split(self.flags)


# The figures have more seeds if graded submissions are compared with them.
EXPERIMENTS = {
    "fig01_mlp_numpy": Experiment("train_mlp_numpy", 15),
    "fig03_mlp_pytorch": Experiment(MLP, 15),
    "fig05_adam": Experiment(MLP, 5),
    "fig07_five_layers": Experiment(MLP, 5),
    "fig09_long": Experiment(MLP, 5),
    "fig11_five_layers_adam_long": Experiment(MLP, 5, is_long=True),
    "fig13_convnet": Experiment(CONVNET, 5, is_long=True),
    "best_mlp": Experiment(MLP, 5, is_long=True),
    "best_convnet": Experiment(CONVNET, 5, is_long=True),
    **{f"learning_rate_{rate}": Experiment(MLP, 5, f"--learning_rate {rate}") for rate in SGD_RATES},
    **{f"adam_{rate}": Experiment(MLP, 5, f"--optimizer adam --learning_rate {rate}") for rate in ADAM_RATES},
    # Depth and initial weights; five layers with the course's weights are figure 7.
    **{
        f"depth_{n}_{init}": Experiment(MLP, 5, f"--dnn_hidden_units {','.join(map(str, WIDTHS[:n]))} --init {init}")
        for n in range(1, 6)
        for init in ("normal", "kaiming", "pytorch")
        if (n, init) != (5, "normal")
    },
    **{
        f"gradients_{init}_{by}": Experiment(FLOW, 1, f"{FLOW_RUN} --init {init} --optimizer {by}")
        for init in ("normal", "pytorch")
        for by in ("sgd", "adam")
    },
    "gradients_first_steps": Experiment(FLOW, 1, f"{FIVE_LAYERS} --max_steps 2 --eval_freq 1 --train_eval_size 1000"),
    # Other configurations of the original's figures than the course's weights and mean-subtracted pixels.
    "course_fig11": Experiment(MLP, 5, LONG_RUN, is_long=True),
    "pytorch_fig03": Experiment(MLP, 5, "--init pytorch"),
    "pytorch_fig05": Experiment(MLP, 5, "--init pytorch --optimizer adam"),
    "pytorch_fig11": Experiment(MLP, 5, f"{LONG_RUN} --init pytorch", is_long=True),
    "standardize_fig03": Experiment(MLP, 5, "--preprocess standardize"),
    "standardize_fig05": Experiment(MLP, 5, "--preprocess standardize --optimizer adam"),
    "standardize_fig07": Experiment(MLP, 5, f"--preprocess standardize {FIVE_LAYERS}"),
    "jpeg_50": Experiment(FLOW, 5, "--jpeg 50"),
    # What keeps the five-layer network from collapsing under Adam.
    "collapses_none": Experiment(FLOW, 3, COLLAPSE_RUN),
    "collapses_clip_1": Experiment(FLOW, 3, f"{COLLAPSE_RUN} --clip_norm 1"),
    "collapses_beta2_0.99": Experiment(FLOW, 3, f"{COLLAPSE_RUN} --adam_beta2 0.99"),
    "collapses_eps_1e-4": Experiment(FLOW, 3, f"{COLLAPSE_RUN} --adam_eps 1e-4"),
    "collapses_standardize": Experiment(FLOW, 3, f"{COLLAPSE_RUN} --preprocess standardize"),
    # The NumPy MLP with wrong gradients.
    **{
        f"wrong_{mistake}": Experiment("report.wrong_gradients", 5, f"--mistake {mistake}")
        for mistake in ("bias_averaged", "slope_of_wrong_sign", "cross_terms_lost")
    },
}
