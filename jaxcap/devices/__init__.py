"""Use one device, many devices or many hosts."""
