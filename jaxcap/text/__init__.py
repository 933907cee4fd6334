"""Text units (words, characters or pieces) and vocabularies."""

from jaxcap.text.units import Characters, Pieces, Words

__all__ = ["Characters", "Pieces", "Words"]
