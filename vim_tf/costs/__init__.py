"""Parameters, operations, memory and step time, from a config alone."""
