"""The training loop, its reports, warnings and stop signals."""
