"""Captions of any captioner against references of any data set: read, matched, scored, explained.

`captions` reads files, `matching` and `pairing` put the same images side by side, `statistics`
scores, `bootstrap` says how far to trust the scores, `diversity` and `baselines` what they mean,
`signature` and `pitfalls` what they compare with. The command is `jaxcap score`. No JAX.
"""
