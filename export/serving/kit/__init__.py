"""What `serving_kit.write_kit` puts beside an exported model, for TensorFlow Serving."""
