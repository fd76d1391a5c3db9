"""Saliency map verbalization: why a text classifier decided as it did, in a sentence or two."""
