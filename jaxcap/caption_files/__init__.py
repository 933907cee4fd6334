"""Read caption files in any common format, match them with images, and write them."""
