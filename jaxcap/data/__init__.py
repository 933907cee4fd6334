"""The input of a step: images, captions, features, batches and the pipeline that makes them."""
