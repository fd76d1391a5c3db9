"""The smallest method there can be: how much each pixel moves the score of a class."""
