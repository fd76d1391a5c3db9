"""The residual networks for small pictures, ResNet-8, -20, -32 and on."""
