"""Reserved for exporting trained models to TF Serving, LiteRT and the browser; empty so far."""
