"""Run the report's experiments that are not recorded yet; write figures, numbers and the PDF from the records.

python -m report.reproduce --list
python -m report.reproduce --only 'fig05*' --seeds 5
python -m report.reproduce
python -m report.reproduce --figures
python -m report.reproduce --pdf
"""

import fnmatch
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

from report.records import add_run, read_records, record_file, recorded_seeds
from report.runs import EXPERIMENTS, REPORT, SEED
from training.files import RunError, only_process_in, write_text
from training.flags import Parser, integer
from training.metadata import git_commit
from training.run import DIVERGED, run_command

ROOT = REPORT.parent
RUNS = ROOT / "results" / "report"  # of experiments, until they are recorded


# ---- Runs ----------------------------------------------------------------------------------------


def missing_runs(names, n_seeds=None):
    """Return (name, seed) of the runs that are not recorded, all first seeds first."""
    wanted = {name: n_seeds or EXPERIMENTS[name].seeds for name in names}
    recorded = {name: recorded_seeds(name) for name in names}
    runs = [(name, SEED + i) for i in range(max(wanted.values())) for name in names if i < wanted[name]]
    return [(name, seed) for name, seed in runs if seed not in recorded[name]]


def run(name, seed):
    """Run one seed of an experiment, or resume it, and record it.

    Raises:
        RunError: it failed, other than by diverging, which is a result; or the code is not committed.
        KeyboardInterrupt: a signal ended it; the same call resumes it.
    """
    directory = RUNS / name / f"seed{seed}"
    with only_process_in(RUNS / name):
        if seed not in recorded_seeds(name):  # another process may have recorded it since
            diverged = None
            if not (directory / "summary.json").exists():
                diverged = train(name, seed, directory)
            add_run(name, directory, diverged)
            shutil.rmtree(directory)


def train(name, seed, directory):
    """Train in a run directory, and return how the run diverged, or None."""
    if (git_commit() or "").endswith("-dirty"):
        raise RunError("Python files differ from the commit that the record would name: commit them first")
    path, experiment = os.path.relpath(directory, ROOT), EXPERIMENTS[name]
    command = ["-m", experiment.script]
    if (directory / "config.json").exists() and (directory / "config.json").stat().st_size:
        command += ["--resume", path]
    else:  # not begun, or stopped while it began
        shutil.rmtree(directory, ignore_errors=True)
        command += [*experiment.arguments(name), "--dataset", "cifar10", "--seed", str(seed), "--out_dir", path]
    print(" ".join(["+ python", *command]), flush=True)
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace"
    )
    message = ""
    try:
        for line in process.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            message = line.strip() or message
    except KeyboardInterrupt:
        process.terminate()  # SIGTERM does not reach it as Ctrl-C does
        process.communicate()
        raise
    if process.wait() == 0:
        return None
    if process.returncode == 1 and DIVERGED in message:
        return message.split(": error: ")[1].split(f": {DIVERGED}")[0]
    raise RunError(f"{name}, seed {seed}, ended with status {process.returncode}: {message}")


def print_list(names, n_seeds):
    """Print each experiment with its recorded and wanted seeds, and the minutes of its last seed."""
    print(f"{'experiment':30} {'script':22} {'seeds':>8} {'minutes':>8}")
    for name in names:
        records = read_records(name)
        minutes = [f"{record.summary['seconds'] / 60:.1f}" if record.summary else "diverged" for record in records]
        seeds = f"{len(records)} of {n_seeds or EXPERIMENTS[name].seeds}"
        print(f"{name:30} {EXPERIMENTS[name].script:22} {seeds:>8} {(minutes or ['-'])[-1]:>8}")


# ---- Figures, numbers, PDF -----------------------------------------------------------------------


def sources_hash():
    """Return a hash of text, records and draw.py. The PDF contains it, so that a test can tell if it is out of date."""
    texts = [REPORT / name for name in ("report.tex", "results.tex", "references.bib", "draw.py")]
    records = [record_file(name) for name in EXPERIMENTS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in texts + records)).hexdigest()


def write_figures():
    """Draw all figures as PDF, and those of the README as PNG, too.

    Raises:
        RunError: an experiment has no recorded run.
    """
    from report import draw

    if lacking := [name for name in EXPERIMENTS if not read_records(name)]:
        raise RunError(f"figures and numbers are left as they are: no run is recorded of {', '.join(lacking)}")
    for name, make in draw.FIGURES.items():
        figure, path = make(), REPORT / "figures" / name
        figure.savefig(f"{path}.pdf", metadata={"CreationDate": None})  # the same content gives the same bytes
        if name in draw.README_FIGURES:
            figure.savefig(f"{path}.png", dpi=160)


def write_numbers():
    """Write results.tex and the README's table of results."""
    from report.numbers import results_markdown, results_tex

    write_text(REPORT / "results.tex", results_tex())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)"
    write_text(ROOT / "README.md", re.sub(marked, lambda _: results_markdown(), readme, flags=re.DOTALL))


def write_pdf():
    """Build report.pdf, and write equations.json, the page of each equation.

    Raises:
        RunError: LaTeX is missing, stops, or finds no label or entry for a reference.
    """
    if shutil.which("latexmk") is None:
        raise RunError("latexmk is not installed: report/README.md names the packages")
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-Werror", "-outdir=build"]
    command += [rf"-usepretex=\def\sources{{{sources_hash()}}}", "report.tex"]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}  # as in write_figures
    done = subprocess.run(command, cwd=REPORT, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("!") or "undefined on" in line]
        raise RunError(f"LaTeX stopped: {' '.join(errors[-2:])}; see report/build/report.log")
    labels = (REPORT / "build" / "report.aux").read_text()
    pages = {name: int(page) for name, page in re.findall(r"\\newlabel\{eq:([\w-]+)\}\{\{\d+\}\{(\d+)\}", labels)}
    write_text(REPORT / "equations.json", json.dumps(pages, indent=1) + "\n")
    shutil.copy(REPORT / "build" / "report.pdf", REPORT)


# ---- Command line --------------------------------------------------------------------------------


def make_parser():
    parser = Parser(prog="reproduce.py", description=__doc__.split("\n")[0])
    names = "experiments, as in 'fig05*' (default: all but those of 20 minutes or more per seed)"
    parser.add_argument("--only", metavar="PATTERN", help=names)
    parser.add_argument("--seeds", type=integer(1), help="seeds of each, from 42 (default: as --list shows)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list what is recorded; run nothing")
    what.add_argument("--figures", action="store_true", help="write figures and numbers from what is recorded")
    what.add_argument("--pdf", action="store_true", help="the same, and build report.pdf")
    return parser


def reproduce(args, names):
    """Do what the flags say with the named experiments."""
    if args.list:
        return print_list(names, args.seeds)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not (args.figures or args.pdf):
        runs = missing_runs(names, args.seeds)
        for i, (name, seed) in enumerate(runs, 1):
            print(f"run {i} of {len(runs)}: {name}, seed {seed}", flush=True)
            run(name, seed)
    write_figures()
    write_numbers()
    if args.pdf:
        write_pdf()


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.figures or args.pdf) and (args.only or args.seeds):
        parser.error("--figures and --pdf take all that is recorded: omit --only and --seeds")
    names = fnmatch.filter(EXPERIMENTS, args.only or "*")
    if not args.only and not args.list:
        names = [name for name in names if not EXPERIMENTS[name].is_long]
    if not names:
        parser.error(f"argument --only: no experiment matches {args.only!r}; --list shows them")
    return run_command("reproduce.py", reproduce, args, names, after_interrupt="; the same command continues")


if __name__ == "__main__":
    sys.exit(main())
