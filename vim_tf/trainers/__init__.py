"""Training steps, their optimizers and schedules, and the loop around them."""
