"""Text units (words, characters or pieces) and vocabularies."""
