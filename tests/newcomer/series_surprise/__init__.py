"""The smallest method of a new task: which values of a series are unlike those seen before."""
