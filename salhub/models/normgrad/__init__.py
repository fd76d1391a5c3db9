"""NormGrad and its family: what an image classifier looks at, from activations and gradients."""
