"""Salient relevance: attention areas of an image classifier, from layer-wise relevance."""
