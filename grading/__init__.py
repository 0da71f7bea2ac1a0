"""The grader behind `grade.py`: a submission's points, and a run held against the report.

In the order in which data flows: `submission.py` reads a folder; `sandbox.py` starts a process that `child/`
holds apart from everything; `reference.py` says what should come back, right or with one of the
mistakes of `mistakes.py` and `mistakes_torch.py`; `check.py` says what a check is, and `all_checks.py` lists those of
`checks_numpy.py`, `checks_torch.py` and `checks_training.py`; `scheme.py` is the course's; `submissions.py` does so for many; `claims.py` holds a run against
those that `runs.py` has recorded; `pages.py` writes what comes of it.
"""
