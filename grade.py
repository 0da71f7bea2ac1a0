"""Grade submissions, and compare runs with the report (grading/README.md).

python grade.py .
python grade.py submissions -j 2 --out_dir results/grade/2026
python grade.py results/train_mlp_numpy/2026-11-24_20-15-00
"""

import contextlib
import os
import sys
from pathlib import Path

from grading.archives import is_archive
from grading.output import printable, result_folders
from grading.scheme import ROOT, VISIBILITIES
from grading.submission import submissions_in
from report.run_check import compare_run, is_run
from training.files import RunError, only_process_in
from training.flags import Parser, file_path, integer
from training.streams import robust_output


def make_flags():
    """Return the parser of this script's flags."""
    parser = Parser(
        prog="grade.py",
        description="Grade submissions (directories with modules.py, mlp_numpy.py, mlp_pytorch.py, "
        "custom_batchnorm.py, convnet_pytorch.py), and compare runs of the training scripts with the report.",
        epilog="Exit status: 0, all were graded; 1, something could not be graded; 2, usage error; 130, interrupted.",
    )
    add = parser.add_argument
    paths = "directory or archive of one submission or of many, or directory of a run"
    add("paths", nargs="+", type=file_path, metavar="PATH", help=paths)
    add("--out_dir", type=file_path, help="directory for the results; of several submissions, one directory "
        "each in it (default: results/grade/NAME)")  # fmt: skip
    add("-j", "--jobs", type=integer(1, 64), default=1, metavar="N", help="submissions at once")
    add("--no_training", action="store_true", help="leave out the checks that train networks, minutes per submission")
    images = "./cifar10/cifar-10-batches-py"
    add("--data_dir", type=file_path, default=images, help="directory of CIFAR-10, for the checks that train networks")
    add("--regrade", action="store_true", help="ignore earlier results of the same files and flags")
    add("--limits_only", action="store_true", help="do without bubblewrap, in a container that forbids it")
    add(
        "--equations",
        action="store_true",
        help="show students the report's equations, which answer the questions graded by hand",
    )
    when = "when Gradescope shows students the results of the checks"
    add("--visibility", choices=VISIBILITIES, default="visible", help=when)
    return parser


def main(argv=None):
    try:
        with robust_output():
            return grade(make_flags(), argv)
    except KeyboardInterrupt:
        print("grade.py: interrupted; the same command continues", file=sys.stderr)
        return 130


def grade(parser, argv):
    """Grade what the command line names, and return the exit status."""
    args = parser.parse_args(argv)
    paths, out_dir = [Path(path) for path in args.paths], Path(args.out_dir or "results/grade")
    check_paths(parser, paths, out_dir)
    runs = [path for path in paths if is_run(path)]
    trees = {tree.path: tree for path in paths if path not in runs for tree in submissions_in(path)}
    found = [*runs, *trees]
    is_one = found == paths[:1]
    folders = {paths[0]: out_dir} if is_one and args.out_dir else result_folders(found, out_dir)
    try:
        with results_in(folders[paths[0]] if is_one else out_dir):
            is_done = [compare_run(path, folders[path]) for path in runs]
            if trees:
                from grading.submissions import grade_all  # imports PyTorch, which runs do not need

                is_done.append(grade_all(trees, folders, args, None if is_one else out_dir))
    except (RunError, OSError) as error:
        print(f"grade.py: error: {printable(error)}", file=sys.stderr)
        return 1
    return 0 if all(is_done) else 1


@contextlib.contextmanager
def results_in(folder):
    """Lock a directory for results during this block, and remove it if it is new and nothing was written."""
    is_new = not folder.exists()
    with only_process_in(folder):
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [".lock"]:
                (folder / ".lock").unlink()
                if is_new:
                    folder.rmdir()


def check_paths(parser, paths, out_dir):
    """End with an error if a path cannot be graded, or if submissions could write what is taken for their results."""
    place = Path(os.path.realpath(out_dir))
    for path in paths:
        if not os.path.lexists(path):
            parser.error(f"{printable(path)} does not exist; name directories of submissions or of runs")
        if not (os.path.isdir(path) or os.path.islink(path) or is_archive(path)):
            parser.error(f"{printable(path)} is neither a directory nor an archive (.zip, .tar.gz)")
        graded = Path(os.path.realpath(path))
        is_overlap = place.is_relative_to(graded) or graded.is_relative_to(place)
        if is_overlap and not (graded == ROOT and place.is_relative_to(ROOT / "results")):
            which = f"{printable(out_dir)}, which overlaps {printable(path)}, which is to be graded"
            parser.error(f"results would go to {which}; name another directory with --out_dir")


if __name__ == "__main__":
    sys.exit(main())
