"""Readers of pictures and labels, and the photos shipped with salhub."""
