"""What a step reads: images, captions, features, batches and the pipeline that makes them."""
