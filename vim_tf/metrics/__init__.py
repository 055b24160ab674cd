"""Metrics of features and images, in NumPy; imports no model."""
