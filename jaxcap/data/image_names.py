"""Tell by its name whether a file is an image, is about images, holds many, or is hidden."""

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

_HIDDEN = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
"""Folders of metadata in ZIP files from macOS, of thumbnails on Synology's disks, and of bins."""


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name holds copies or metadata, not images.

    `~$NAME` is what Microsoft Office leaves beside an open file.
    """
    return (name.startswith((".", "~$")) and name not in (".", "..")) or name in _HIDDEN
