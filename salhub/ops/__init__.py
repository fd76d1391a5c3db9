"""Pure tensor functions shared by the methods."""
