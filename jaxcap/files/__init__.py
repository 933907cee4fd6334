"""Files, read with care: local ones, JSON, downloads, and the Hugging Face Hub."""

from jaxcap.files.local import (
    SmallReads,
    cache_dir,
    check_folder,
    check_space,
    check_target,
    is_disk_full,
    is_private,
    lock_file,
    locked,
    no_link,
    open_file,
    open_zip,
    read_bytes,
    replacing,
    same_file,
    write_text,
)

__all__ = [
    "SmallReads",
    "cache_dir",
    "check_folder",
    "check_space",
    "check_target",
    "is_disk_full",
    "is_private",
    "lock_file",
    "locked",
    "no_link",
    "open_file",
    "open_zip",
    "read_bytes",
    "replacing",
    "same_file",
    "write_text",
]
