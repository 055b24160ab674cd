"""The sources of images: one module per source."""
