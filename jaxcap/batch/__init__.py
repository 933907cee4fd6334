"""Caption batches on engines that spread them over many machines: Ray, Spark, Beam."""

from jaxcap.batch.batch_captioner import Captioner

__all__ = ["Captioner"]
