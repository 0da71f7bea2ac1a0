"""Make the report again: run what is not recorded, and draw figures and numbers from what is.

python -m report.reproduce --list
python -m report.reproduce --only 'fig05*' --seeds 5
python -m report.reproduce
python -m report.reproduce --figures
python -m report.reproduce --pdf
"""

import fnmatch
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys

from report.draw import figures, fingerprint
from report.records import (
    EXPERIMENTS,
    FLAG_FILES,
    LONG_EXPERIMENTS,
    REPORT,
    SEED,
    add_run,
    is_recorded,
    read_records,
    whole_runs,
)
from report.tables import README_RUNS, report_numbers, results_markdown, results_tex
from training.files import RunError, only_process_in, write_atomically, write_text
from training.flags import Parser, integer
from training.run import DIVERGED
from training.streams import robust_output

ROOT = REPORT.parent
RUNS = ROOT / "results" / "report"  # of runs that are not recorded yet


class ReproduceError(Exception):
    """The report cannot be made again; the message says what to do."""


# ---- Runs --------------------------------------------------------------------------------------


def folder_of(name, seed):
    return RUNS / name / f"seed{seed}"


def missing_runs(names, n_seeds):
    """Return (name, seed) of the runs that are not recorded, in the order of `EXPERIMENTS`, all first seeds first."""
    wanted = {name: n_seeds or EXPERIMENTS[name][1] for name in names}
    runs = [(name, SEED + i) for i in range(max(wanted.values())) for name in names if i < wanted[name]]
    return [(name, seed) for name, seed in runs if not is_recorded(name, seed)]


def has_begun(folder):
    """Return whether a run can be resumed by the folder's config.json, which lies empty in it while a run begins."""
    try:
        return isinstance(json.loads((folder / "config.json").read_text()), dict)
    except (FileNotFoundError, ValueError):
        return False


def record(name, seed, diverged=None):
    """Record a run that has come to its end, and remove its folder."""
    if not is_recorded(name, seed):
        add_run(name, folder_of(name, seed), diverged)
    shutil.rmtree(folder_of(name, seed))


def record_finished_runs(names):
    """Record the runs that were killed between their end and that, and remove what is left of recorded ones."""
    for name in names:
        seeds = [folder.name.removeprefix("seed") for folder in (RUNS / name).glob("seed*")]
        for seed in map(int, filter(str.isdecimal, seeds)):  # not of somebody's copy
            with only_process_in(RUNS / name):
                if (folder_of(name, seed) / "summary.json").exists() or is_recorded(name, seed):
                    record(name, seed)


def run(name, seed):
    """Run one seed of an experiment, or go on with it, and record it.

    Raises:
        ReproduceError: it failed otherwise than by diverging, which is a result.
        KeyboardInterrupt: a signal ended it; the same call goes on with it.
    """
    script, folder = EXPERIMENTS[name][0], folder_of(name, seed)
    if folder.is_dir() and not has_begun(folder):
        shutil.rmtree(folder)
    path = os.path.relpath(folder, ROOT)
    if folder.exists():
        flags = ["--resume", path]
    else:
        flag_file = os.path.relpath(FLAG_FILES / f"{name}.args", ROOT)
        flags = [f"@{flag_file}", "--dataset", "cifar10", "--seed", str(seed), "--out_dir", path]
    program = ["-m", script.replace("/", ".")] if script.startswith("report/") else [f"{script}.py"]
    print(" ".join(["+ python", *program, *flags]), flush=True)
    command = [sys.executable, *program, *flags]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, errors="replace")
    message = ""
    try:
        for line in child.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            message = line.strip() or message
        child.wait()
    except KeyboardInterrupt:
        child.terminate()  # Ctrl-C has reached it already, SIGTERM has not
        child.communicate()
        raise
    diverged = None
    if child.returncode == 1 and DIVERGED in message:
        diverged = message.split(": error: ")[1].split(f": {DIVERGED}")[0]
        print(f"it diverged, which is recorded: {diverged}")
    elif child.returncode:
        raise ReproduceError(f"{script}.py ended with status {child.returncode}: {message}")
    record(name, seed, diverged)


def print_list(names, n_seeds):
    """Print each experiment with its recorded and wanted seeds and the minutes that its latest run took."""
    lines = [f"{'experiment':30} {'script':22} {'seeds':>8} {'minutes, last':>14}"]
    for name in names:
        script, wanted = EXPERIMENTS[name]
        records = read_records(name)
        whole = [record for record in records if record.is_whole]
        latest = max(whole, key=lambda record: record.config["date"], default=None)
        minutes = f"{latest.summary['seconds'] / 60:.1f}" if latest else "diverged" if records else "-"
        seeds = f"{len(records)} of {n_seeds or wanted}"
        lines.append(f"{name:30} {script:22} {seeds:>8} {minutes:>14}")
    print("\n".join(lines))


# ---- Figures, numbers, PDF -----------------------------------------------------------------------


def write_figures():
    """Draw every figure whose runs are recorded, as PNG and as PDF."""
    folder = REPORT / "figures"
    folder.mkdir(exist_ok=True)
    for name, figure in figures():
        drawn = fingerprint(figure)  # in both files, for a test to see whether they are old
        # Without the date that Matplotlib adds, a figure drawn again is the same file.
        for kind, options in (
            ("pdf", {"metadata": {"CreationDate": None, "Keywords": drawn}}),
            ("png", {"metadata": {"Drawn": drawn}, "dpi": 220}),
        ):
            save = functools.partial(figure.savefig, format=kind, **options)
            write_atomically(folder / f"{name}.{kind}", save)


def experiments_lacking():
    """Return the experiments that results.tex and the README need and of which too little is recorded."""
    whole = dict.fromkeys([*README_RUNS, *(name for name in EXPERIMENTS if name.startswith("fig"))])
    lacking = [name for name in whole if not whole_runs(name)]
    # Others may have diverged, all of them: that is what report.tex says.
    quoted = report_numbers()
    others = [name for name in EXPERIMENTS if any(number.startswith(f"{name}.") for number in quoted)]
    return lacking + [name for name in others if name not in whole and not read_records(name)]


def write_numbers():
    """Write results.tex, and the README's table of results."""
    tex = results_tex()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = r"(?<=<!-- results -->\n).*?(?=<!-- /results -->)"
    changed, n_tables = re.subn(marked, lambda _: results_markdown(), readme, flags=re.DOTALL)
    if n_tables != 1:
        raise ReproduceError(f"README.md has {n_tables} places between <!-- results --> and its end, expected 1")
    write_text(REPORT / "results.tex", tex)
    if changed != readme:
        write_text(ROOT / "README.md", changed)


def sources_hash():
    """Return a fingerprint of the text and the numbers that report.pdf is built from."""
    sources = (REPORT / name for name in ("report.tex", "results.tex", "references.bib"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def undefined_references(log):
    """Return what LaTeX's log calls undefined, as in ["reference fig:fig15", "citation knuth1984"]."""
    found = re.findall(r"Warning: (Reference|Citation) [`'](.+?)' .*undefined", log)
    return list(dict.fromkeys(f"{kind.lower()} {key}" for kind, key in found))


def write_pdf():
    """Build report.pdf from report.tex, and write equations.json, on which page each equation is.

    Raises:
        ReproduceError: LaTeX is missing, or stops, or finds no label or entry for a reference.
    """
    if shutil.which("latexmk") is None:
        raise ReproduceError(
            "latexmk is not installed; on Debian: apt-get install latexmk texlive-latex-extra texlive-science "
            "texlive-fonts-recommended lmodern"
        )
    command = ["latexmk", "-pdf", "-interaction=nonstopmode", "-halt-on-error", "-outdir=build"]
    command += [rf"-usepretex=\def\sources{{{sources_hash()}}}", "report.tex"]
    # Without dates, a PDF built again is the same file; without a limit, no line of the log is broken in two.
    environment = os.environ | {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1", "max_print_line": "10000"}
    done = subprocess.run(command, cwd=REPORT, capture_output=True, text=True, errors="replace", env=environment)
    if done.returncode:
        errors = [line for line in done.stdout.splitlines() if line.startswith("!") or ": error:" in line]
        raise ReproduceError(f"LaTeX stopped: {' '.join(errors[:2]) or 'no message'}; see report/build/report.log")
    undefined = undefined_references((REPORT / "build" / "report.log").read_text(errors="replace"))
    if undefined:
        raise ReproduceError(
            f"report.tex refers to what is not there, {', '.join(undefined[:3])}: give it a \\label, or an entry in "
            "references.bib"
        )
    labels = (REPORT / "build" / "report.aux").read_text()
    pages = {name: int(page) for name, page in re.findall(r"\\newlabel\{eq:([\w-]+)\}\{\{\d+\}\{(\d+)\}", labels)}
    write_text(REPORT / "equations.json", json.dumps(pages, indent=1) + "\n")
    built = (REPORT / "build" / "report.pdf").read_bytes()
    write_atomically(REPORT / "report.pdf", lambda file: file.write(built))


# ---- Command line --------------------------------------------------------------------------------


def make_parser():
    parser = Parser(prog="reproduce.py", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", metavar="PATTERN", help="experiments, as in 'fig05*' (default: all but the long ones)"
    )
    parser.add_argument("--seeds", type=integer(1), help="seeds of each, from 42 (default: as --list shows)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="show what is recorded and how long it took; run nothing")
    what.add_argument(
        "--figures", action="store_true", help="only draw figures and write numbers from what is recorded"
    )
    what.add_argument("--pdf", action="store_true", help="the same, and build report.pdf")
    return parser


def stop(*_):
    raise KeyboardInterrupt


def reproduce(args, names):
    """Run what is missing of the experiments `names`, unless the flags leave that out; draw, write, build."""
    if not (args.figures or args.pdf):
        record_finished_runs(names)
        runs = missing_runs(names, args.seeds)
        for i, (name, seed) in enumerate(runs, 1):
            print(f"run {i} of {len(runs)}: {name}, seed {seed}", flush=True)
            with only_process_in(RUNS / name):
                if not is_recorded(name, seed):  # by another process, since
                    run(name, seed)
    write_figures()
    lacking = experiments_lacking()
    if lacking:
        message = (
            f"results.tex and README.md are left as they are: no whole run of {', '.join(lacking)} is recorded; "
            "to run one: python -m report.reproduce --only NAME"
        )
        if args.pdf:
            raise ReproduceError(message)
        print(message)
        return
    write_numbers()
    if args.pdf:
        write_pdf()


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if (args.figures or args.pdf) and (args.only, args.seeds) != (None, None):
        parser.error("--figures and --pdf take all that is recorded: leave out --only and --seeds")
    names = fnmatch.filter(EXPERIMENTS, "*" if args.only is None else args.only)
    if args.only is None and not args.list:
        names = [name for name in names if name not in LONG_EXPERIMENTS]
    if not names:
        parser.error(f"argument --only: no experiment matches {args.only!r}; --list shows them")
    try:
        if args.list:
            print_list(names, args.seeds)
            return 0
        signal.signal(signal.SIGTERM, stop)
        reproduce(args, names)
    except (ReproduceError, RunError, OSError, ValueError) as error:
        print(f"reproduce.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("reproduce.py: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    with robust_output():
        sys.exit(main())
