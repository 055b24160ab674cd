"""Measures of tokenizers, token models and samples; never imports a trainer."""
