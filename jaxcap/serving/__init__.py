"""Captions over HTTP: `jaxcap serve`, with its page.

`batching` captions images in one JAX thread; `searches` bounds the compiled programs; `service`
answers requests within limits, and `compatible` in the form of other servers; `app` joins these and
the `pages`; `running` starts and stops it all.
"""
