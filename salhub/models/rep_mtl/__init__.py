"""Rep-MTL: multi-task training regularised by what each task reads in the shared features."""
