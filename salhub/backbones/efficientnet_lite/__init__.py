"""EfficientNet-Lite 0, 1 and 2 for image classification."""
