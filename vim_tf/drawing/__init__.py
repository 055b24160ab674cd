"""Images and curves for people."""
