"""Turn files into data sets: read sources, build, prepare and inspect."""
