"""Training steps, their optimizers and schedules."""
