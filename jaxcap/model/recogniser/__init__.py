"""Recognise words in images, for the decoder to read and the search to require."""
