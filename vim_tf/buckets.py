"""Folders in a bucket, gs://..., where nothing can be renamed, appended to or locked."""

import os


def is_in_bucket(path):
    """Whether a path is a URL such as gs://bucket/run."""
    return "://" in os.fspath(path)
