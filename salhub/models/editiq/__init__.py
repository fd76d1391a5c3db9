"""EditIQ: a static wide shot becomes an edited film, by dialogue and saliency."""
