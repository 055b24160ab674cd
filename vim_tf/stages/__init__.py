"""One experiment of each kind, from a config to a training."""
