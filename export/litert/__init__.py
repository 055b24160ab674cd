"""LiteRT files of the decoder and of the generator."""
