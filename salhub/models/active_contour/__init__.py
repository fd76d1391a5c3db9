"""Saliency-driven active contour: one object cut out of a picture, without training."""
