"""Write an autograder for Gradescope.

python -m grading.gradescope autograder.zip --no_training
python -m grading.gradescope autograder.zip --no_training --visibility after_due_date
"""

import sys
import zipfile

from grading.scheme import FILES, ROOT, VISIBILITIES
from training.flags import Parser, file_path, integer

# The grader, the project's answers, which are checked first, and what a submission may import.
PARTS = (*FILES, "cifar10_utils.py", "grade.py", "requirements.txt", "training/*.py", "grading/*.py", "grading/*/*.py",
         "grading/*.html", "report/equations.json",
         *(f"report/{name}.py" for name in ("__init__", "claims", "records", "run_check")))  # fmt: skip
# Recorded runs that training is compared with.
TRAINING_PARTS = ("report/results/fig01_mlp_numpy.jsonl", "report/results/fig03_mlp_pytorch.jsonl")
SPARE_SECONDS = 45  # between the grader's end and the platform's


def autograder(visibility="visible", training=True, minutes=10):
    """Return `{path in the archive: bytes}`.

    Args:
        visibility: one of `scheme.VISIBILITIES`.
        training: also train networks; `setup.sh` then downloads CIFAR-10.
        minutes: the assignment's timeout on the platform.
    """
    flags = f"--visibility {visibility}" + " --no_training" * (not training)
    files = {path.name: path.read_bytes() for path in (ROOT / "grading" / "autograder").iterdir()}
    files["settings.sh"] = f"flags='{flags}'\nseconds={60 * minutes - SPARE_SECONDS}\n".encode()
    paths = (path for part in PARTS + TRAINING_PARTS * training for path in ROOT.glob(part) if path.is_file())
    return files | {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in sorted(paths)}


def main(argv=None):
    parser = Parser(prog="python -m grading.gradescope", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("archive", type=file_path, help="a new .zip, to upload as the assignment's autograder")
    when = "when Gradescope shows students the results of the checks"
    add("--visibility", choices=VISIBILITIES, default="visible", help=when)
    add("--no_training", action="store_true", help="leave out the checks that train networks, and CIFAR-10")
    add("--minutes", type=integer(3, 40), default=10, help="the assignment's timeout on Gradescope")
    args = parser.parse_args(argv)
    try:
        with zipfile.ZipFile(args.archive, "x", zipfile.ZIP_DEFLATED) as archive:
            for name, raw in autograder(args.visibility, not args.no_training, args.minutes).items():
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same files give the same archive
                info.external_attr = 0o755 << 16
                archive.writestr(info, raw, zipfile.ZIP_DEFLATED)
    except OSError as error:
        parser.error(f"{args.archive} cannot be written ({error.strerror}); name a new file")
    print(f"{args.archive}: upload it as the assignment's autograder, and set a timeout of {args.minutes} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
