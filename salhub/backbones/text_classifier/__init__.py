"""A small classifier of short texts."""
