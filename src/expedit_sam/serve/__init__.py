"""The HTTP service: an image and prompts in, masks out."""
