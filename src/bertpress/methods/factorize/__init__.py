"""Methods that put products of smaller matrices in place of large ones."""
