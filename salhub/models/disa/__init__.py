"""DiSa: prompt learning on CLIP that keeps what CLIP knows of other classes."""
