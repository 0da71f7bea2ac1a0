"""Grade submissions, and hold runs against the report (README, "Grade").

python grade.py .
python grade.py submissions/* -j 2 --out_dir results/grade/2026
python grade.py results/train_mlp_numpy/2026-11-24_20-15-00
"""

import sys
from pathlib import Path

from train_utils import Parser, whole_number


def make_flags():
    """Return the parser of this script's flags."""
    parser = Parser(
        prog="grade.py",
        description="Give points to submissions (folders with modules.py, mlp_numpy.py, mlp_pytorch.py, "
        "custom_batchnorm.py, convnet_pytorch.py), and hold runs (what the training scripts write) against the report.",
        epilog="Exit status: 0, all was graded; 1, something could not be; 2, wrong use.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("paths", nargs="+", metavar="PATH", help="folder of a submission or of a run")
    add("--out_dir", help="where results go (default: results/grade; with one PATH, results/grade/NAME)")
    add("-j", "--jobs", type=whole_number(1, 64), default=1, metavar="N", help="submissions at once (default: 1)")
    add("--no_training", action="store_true", help="leave the training checks out: seconds, not a minute, a submission")
    add("--full", action="store_true", help="train the ConvNet for all of its 5,000 steps, which takes up to an hour")
    add("--lenient", action="store_true", help="bring back names that NumPy has dropped, and say which were used")
    add("--anew", action="store_true", help="grade again what --out_dir has results of")
    add("--data_dir", default="./cifar10/cifar-10-batches-py", help="folder of CIFAR-10, for the training checks")
    return parser


def main(argv=None):
    parser = make_flags()
    args = parser.parse_args(argv)
    paths = [Path(path) for path in args.paths]
    for path in paths:
        if not path.is_dir():
            parser.error(f"{path} is not a folder; name folders of submissions or of runs")
    from grading.run_folder import hold_run, is_run
    from grading.sandbox import SandboxError

    try:
        runs = [path for path in paths if is_run(path)]
        graded = [hold_run(path, args) for path in runs]
        others = [path for path in paths if path not in runs]
        if others:
            from grading.submissions import grade_all  # PyTorch with it, which a run does not need

            graded += grade_all(others, args)
    except KeyboardInterrupt:
        print("grade.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (SandboxError, OSError) as error:
        print(f"grade.py: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0 if all(graded) else 1


if __name__ == "__main__":
    sys.exit(main())
