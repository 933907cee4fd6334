"""Score the captions of any captioner against the references of any data set, without JAX.

`pairing` pairs captions with references, `statistics` scores them, `bootstrap` gives confidence
intervals and tests, `diversity` and `baselines` put the scores in context, and `signature` and
`pitfalls` say which scores are comparable. The command is `jaxcap score`.
"""
