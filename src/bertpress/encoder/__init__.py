"""One small, config-driven encoder in which every layer may have its own shape."""
