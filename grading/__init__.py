"""The grader behind `grade.py`: a submission's points, and a run held against the report.

What is in which file: README.md here. In the order in which data flows: `submission.py` reads a folder; `sandbox.py`
starts a process that `child/` holds apart from everything; the checks, `all_checks.py`, ask it and compare with
`reference.py`, right or with one of the known mistakes; `submissions.py` does so for many. `claims.py` holds a run
against those that `runs.py` has recorded. `pages.py` writes what comes of both.
"""
