"""Early exits: easy texts leave a model behind one of its first layers."""
