"""The captioner: images and the words so far to logits of the next word. Read `captioner` first."""
