"""Side by side with other packages: seconds, memory and equality, as ratios, in one process."""
