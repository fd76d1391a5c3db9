"""The one runner that trains, unlearns and compresses models, built on Accelerate."""
