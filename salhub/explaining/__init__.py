"""Base of the methods that explain an image classifier."""
