"""Images: sources, transforms and the batches of training and evaluation."""
