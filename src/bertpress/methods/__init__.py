"""One method, one file: ``methods/<family>/<name>.py`` is what a recipe calls ``<family>/<name>``."""
