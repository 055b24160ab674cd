"""Builds the data set of `data.source: styles` from packages of emoji and icons."""
