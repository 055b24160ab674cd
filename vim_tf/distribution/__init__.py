"""Strategies, replicas, workers and compilation."""
