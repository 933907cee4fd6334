"""Convolution and pooling in the forms that XLA's CPU backend runs fast."""
