"""What captions are made of: words, characters or pieces, and their ids."""
