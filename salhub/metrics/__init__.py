"""Definitions of how good a map is; pure tensor functions, nothing here knows a model."""
