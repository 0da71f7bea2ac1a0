"""The grader behind `grade.py`: a submission's points, and a run held against the report. See README.md here."""
