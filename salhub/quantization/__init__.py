"""Weights in few bits: how they are written, packed, and loaded by transformers."""
