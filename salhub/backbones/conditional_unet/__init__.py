"""A class-conditional U-Net that predicts noise, its noise schedule, and sampling from it."""
