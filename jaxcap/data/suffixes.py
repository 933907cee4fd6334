"""Suffixes of image files, of raw files, and of files that hold many images."""

from __future__ import annotations

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".ppm", ".pgm", ".heic", ".heif", ".jxl"),
)
"""How image files are recognised in folders. A file that cannot be read after all is reported."""

RAW_SUFFIXES = (
    *(".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef"),
    *(".srw", ".x3f", ".iiq", ".3fr"),
)
"""Raw files of cameras, which are left out: most have a JPEG beside them."""

SHARD_SUFFIXES = (".tar", ".parquet")
"""Files that hold many images."""
