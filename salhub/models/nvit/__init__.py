"""NViT: whole structures of a vision transformer are removed until it is fast enough."""
