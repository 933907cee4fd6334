"""Suffixes of image files, of files about them, and of files that hold many images."""

from __future__ import annotations

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".avif", ".avifs", ".heic", ".heics", ".heif", ".heifs", ".hif", ".jxl"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
)
"""How image files are recognised in folders. A file that cannot be read after all is reported."""

ABOUT_IMAGES = (
    *(".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".token", ".xmp", ".html", ".md"),
    *(".made-with", ".npy", ".npz", ".py", ".sh", ".yaml", ".yml", ".toml", ".db", ".ini"),
)
"""Files that nobody takes for images. All others are reported when they are left out."""

SHARD_SUFFIXES = (".tar", ".parquet")
"""Files that hold many images."""
