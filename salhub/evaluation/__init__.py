"""Protocols that measure models on data and give results files; the cards are made from these."""
