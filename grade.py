"""Grade submissions, and hold runs against the report (grading/README.md).

python grade.py .
python grade.py submissions/* -j 2 --out_dir results/grade/2026
python grade.py results/train_mlp_numpy/2026-11-24_20-15-00
"""

import contextlib
import os
import sys
from pathlib import Path

from grading.scheme import VISIBILITIES
from training.files import RunError, only_process_in
from training.flags import Parser, file_path, integer
from training.streams import robust_output


def make_flags():
    """Return the parser of this script's flags."""
    parser = Parser(
        prog="grade.py",
        description="Give points to submissions (folders with modules.py, mlp_numpy.py, mlp_pytorch.py, "
        "custom_batchnorm.py, convnet_pytorch.py), and hold runs (what the training scripts write) against the report.",
        epilog="Exit status: 0, all was graded; 1, something could not be; 2, wrong use; 130, interrupted.",
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="+",
        type=file_path,
        metavar="PATH",
        help="folder or archive of a submission, export of many, or folder of a run",
    )
    where = "where results go: of one PATH itself, of several NAME in it (default: results/grade/NAME)"
    add("--out_dir", type=file_path, help=where)
    add("-j", "--jobs", type=integer(1, 64), default=1, metavar="N", help="submissions at once")
    training = parser.add_mutually_exclusive_group().add_argument
    training(
        "--no_training", action="store_true", help="leave the training checks out: seconds, not a minute, a submission"
    )
    training(
        "--full", action="store_true", help="train the ConvNet for all of its 5,000 steps, which takes up to an hour"
    )
    add("--lenient", action="store_true", help="bring back names that NumPy has dropped, and say which were used")
    add("--require_sandbox", action="store_true", help="refuse to run submissions under limits only")
    add("--anew", action="store_true", help="grade again what --out_dir has results of")
    add(
        "--visibility",
        choices=VISIBILITIES,
        default="visible",
        help="when Gradescope shows students the checks' results",
    )
    images = "./cifar10/cifar-10-batches-py"
    add("--data_dir", type=file_path, default=images, help="folder of CIFAR-10, for the training checks")
    return parser


def main(argv=None):
    try:
        with robust_output():
            return grade(make_flags(), argv)
    except KeyboardInterrupt:
        print("grade.py: interrupted; the same command goes on", file=sys.stderr)
        return 130


def grade(parser, argv):
    """Grade what the command line names, and return the exit status."""
    args = parser.parse_args(argv)
    from grading.archives import ArchiveError, is_archive, submissions_in
    from grading.claims import hold_run, is_run
    from grading.pages import DEFAULT_OUT_DIR, printable, result_folders
    from grading.walls import ROOT, SandboxError

    paths, left = {}, []
    for given in map(Path, args.paths):
        if not os.path.lexists(given):
            parser.error(f"{printable(given)} is not there; name folders of submissions or of runs")
        is_folder = given.is_dir()
        found = [given] if is_folder or is_archive(given) else []
        if found and not is_folder:
            # One that cannot be read is graded as one submission, which has 0 points and says why.
            with contextlib.suppress(ArchiveError, OSError):
                found = submissions_in(given)
        if not found:
            left.append(f"{printable(given)} is neither a folder nor a .zip, .tar.gz or .tgz")
        for path in found:
            if os.path.abspath(path) in paths:
                print(f"grade.py: {printable(path)} is given twice; it is graded once", file=sys.stderr)
            paths.setdefault(os.path.abspath(path), path)
    if not paths:
        parser.error(f"{left[0]}; name folders of submissions or of runs")
    for line in left:
        print(f"grade.py: left out: {line}", file=sys.stderr)
    paths = list(paths.values())
    out_dir = Path(args.out_dir or DEFAULT_OUT_DIR)
    place = out_dir.resolve()
    for part in (place, *place.parents):
        if os.path.lexists(part) and not part.is_dir():
            parser.error(f"argument --out_dir: {printable(part)} is no folder; name a folder, or one that is not there")
    for path in paths:
        # Else a results.json that somebody handed in would be taken for the grader's own.
        is_own = path.resolve() == ROOT and place.is_relative_to(ROOT / "results")  # the project, as it is
        if _overlap(place, path) and not is_own:
            parser.error(
                f"results would go to {printable(out_dir)} and {printable(path)} is to be graded, and one lies in the "
                "other; name a folder apart with --out_dir"
            )
    folders = result_folders(paths, args.out_dir)
    try:
        with only_process_in(out_dir if len(paths) > 1 else folders[paths[0]]):
            runs = [path for path in paths if is_run(path)]
            graded = [hold_run(path, folders[path]) for path in runs]
            others = {path: folders[path] for path in paths if path not in runs}
            if others:
                from grading.submissions import grade_all  # PyTorch with it, which a run does not need

                graded += grade_all(others, args, out_dir if len(paths) > 1 else None)
    except (SandboxError, RunError, OSError) as error:
        print(f"grade.py: error: {printable(error)}", file=sys.stderr)
        return 1
    return 0 if all(graded) and not left else 1


def _overlap(out_dir, path):
    """Return whether one of two folders is or contains the other, where `path` leads and where it stands."""
    places = path.resolve(), path.parent.resolve() / path.name
    return any(out_dir.is_relative_to(place) or place.is_relative_to(out_dir) for place in places)


if __name__ == "__main__":
    sys.exit(main())
