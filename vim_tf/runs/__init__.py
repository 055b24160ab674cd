"""Run folders, checkpoints, and loading the files that a run wrote."""
