"""What runs in a submission's process. It is copied to its own directory and imports nothing of the project.

It contains no expected value and no comparison: it computes what it is asked for and returns arrays.
"""
