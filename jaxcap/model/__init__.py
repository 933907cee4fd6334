"""The captioner: predicts the next word from an image and the words so far. Read `captioner`."""
