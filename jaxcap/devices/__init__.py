"""One device, many devices, many hosts."""
