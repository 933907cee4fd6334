"""Compute the CRC-32C of TFRecord files, which zlib does not offer."""

from __future__ import annotations

from collections.abc import Iterator


def crc32c(content: bytes) -> int:
    """Compute the CRC-32C of RFC 3720, section 12.1 (Castagnoli)."""
    crc, remainders = 0xFFFFFFFF, _REMAINDERS
    for byte in content:
        crc = crc >> 8 ^ remainders[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def masked_crc32c(content: bytes) -> int:
    """Compute the masked CRC-32C that records store, since a record may contain other CRCs."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _remainders() -> Iterator[int]:
    for remainder in range(256):
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
        yield remainder


_REMAINDERS = tuple(_remainders())
