"""Images in, captions out: the loaded model, the stream of images, decoding and export."""
