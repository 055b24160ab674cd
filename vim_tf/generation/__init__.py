"""From labels to images, in Keras and in LiteRT."""
