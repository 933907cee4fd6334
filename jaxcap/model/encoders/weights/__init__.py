"""Read published weight files of any framework, and fit them to an encoder."""
