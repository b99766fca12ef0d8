"""Search for the cheapest artifact within a permitted loss, in a given time."""
