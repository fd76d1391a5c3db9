"""LexRank: sentences that many others resemble carry a text."""
