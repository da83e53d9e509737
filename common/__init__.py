"""What the stages share, once: errors, publishing, images, array types, cores."""
