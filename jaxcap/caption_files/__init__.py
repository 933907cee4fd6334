"""Captions on disk, in any layout: read, match with images, write."""
