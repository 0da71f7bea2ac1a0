"""Grade submissions, and compare runs with the report (grading/README.md).

python grade.py .
python grade.py submissions -j 2 --out_dir results/grade/2026
python grade.py results/train_mlp_numpy/2026-11-24_20-15-00
"""

import contextlib
import os
import sys
from pathlib import Path

from grading.archives import Tree, find_submissions, is_archive, list_tree
from grading.output import printable, result_folders
from grading.scheme import ROOT, VISIBILITIES
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
        epilog="Exit status: 0, all were graded; 1, something could not be graded; 2, wrong use; 130, interrupted.",
    )
    add = parser.add_argument
    paths = "directory or archive of one submission or of many, or directory of a run"
    add("paths", nargs="+", type=file_path, metavar="PATH", help=paths)
    add("--out_dir", type=file_path, help="directory for one PATH, or for a directory per submission "
        "(default: results/grade/NAME)")  # fmt: skip
    add("-j", "--jobs", type=integer(1, 64), default=1, metavar="N", help="submissions at once")
    add("--no_training", action="store_true", help="leave out the checks that train networks, about a minute each")
    images = "./cifar10/cifar-10-batches-py"
    add("--data_dir", type=file_path, default=images, help="directory of CIFAR-10, for the checks that train networks")
    add("--lenient", action="store_true", help="restore names that NumPy has removed, and report which were used")
    add("--regrade", action="store_true", help="grade again what has results of the same files and flags")
    add("--limits_only", action="store_true", help="do without bubblewrap, in a container that forbids it")
    add("--equations", action="store_true", help="show students the equations of the report that their answer misses")
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
    runs, submissions, others = find(parser, map(Path, args.paths))
    paths, out_dir = [*runs, *submissions], Path(args.out_dir or "results/grade")
    check_out_dir(parser, out_dir, map(Path, args.paths))
    for line in others:
        print(f"grade.py: left out: {line}", file=sys.stderr)
    is_one = paths == [Path(args.paths[0])]
    folders = {paths[0]: out_dir} if is_one and args.out_dir else result_folders(paths, out_dir)
    place = folders[paths[0]] if is_one else out_dir
    created = [part for part in (place, *place.parents) if not os.path.exists(part)]
    try:
        with only_process_in(place):
            is_done = [compare_run(path, folders[path]) for path in runs]
            if submissions:
                from grading.submissions import grade_all  # imports PyTorch, which runs do not need

                is_done.append(grade_all(submissions, folders, args, None if is_one else out_dir))
    except (RunError, OSError) as error:
        print(f"grade.py: error: {printable(error)}", file=sys.stderr)
        return 1
    finally:
        with contextlib.suppress(OSError):  # leave no empty directory
            if created and os.listdir(place) == [".lock"]:
                (place / ".lock").unlink()
            for part in created:
                part.rmdir()
    return 0 if all(is_done) and not others else 1


def find(parser, paths):
    """Return runs, `{path: (tree, names)}` of submissions for `Tree.below`, and a line on each path that is neither."""
    runs, submissions, others = [], {}, []
    for path in paths:
        if not os.path.lexists(path):
            parser.error(f"{printable(path)} does not exist; name directories of submissions or of runs")
        if is_run(path):
            runs.append(path)
        elif os.path.isdir(path) or os.path.islink(path) or is_archive(path):
            tree = list_tree(path)
            try:
                found = find_submissions(tree)
            except Exception as error:  # it gets this reason and 0 points, the others are graded
                tree, found = Tree(path, {}, {".": str(error)}), [()]
            submissions |= {path.joinpath(*names): (tree, names) for names in found}
        else:
            others.append(f"{printable(path)} is neither a directory nor an archive (.zip, .tar.gz)")
    if not runs and not submissions:
        parser.error(f"{others[0]}; name directories of submissions or of runs")
    return runs, submissions, others


def check_out_dir(parser, out_dir, paths):
    """End with an error if results would go to a file, or where a submission could have written them."""
    place = Path(os.path.realpath(out_dir))
    for part in (place, *place.parents):
        if os.path.lexists(part) and not os.path.isdir(part):
            parser.error(f"argument --out_dir: {printable(part)} is not a directory; name a directory or a new one")
    for path in paths:
        graded = Path(os.path.realpath(path))
        places = (graded, Path(os.path.realpath(path.parent), path.name))  # two if it is a link
        is_overlap = any(place.is_relative_to(p) or p.is_relative_to(place) for p in places)
        if is_overlap and not (graded == ROOT and place.is_relative_to(ROOT / "results")):
            which = f"{printable(out_dir)}, which overlaps {printable(path)}, which is to be graded"
            parser.error(f"results would go to {which}; name another directory with --out_dir")


if __name__ == "__main__":
    sys.exit(main())
