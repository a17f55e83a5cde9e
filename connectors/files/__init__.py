"""Files as rows: one reader a format; each gives bounded chunks of (key, value) pairs, and the rows that it could not read."""
