"""Measuring explainers of image classifiers: one folder of pictures, one set of protocols."""
