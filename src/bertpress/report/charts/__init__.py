"""Charts as markup: inline SVG and HTML that a page can print, zoom and carry without a network."""
