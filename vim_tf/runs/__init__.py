"""Run folders, checkpoints, and opening what a run wrote."""
