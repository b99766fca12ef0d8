"""Its presence puts this folder on the import path, for the modules that tests of several packages share."""
