"""Which network the student is, and where its weights start."""
