"""What runs in a submission's process. It is copied to a folder of its own and imports nothing of the project.

No value that is expected of a submission stands here, and no comparison: this end computes and hands back.
"""
