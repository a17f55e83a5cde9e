"""``kappa shell``: statements, commands that begin with a dot, completion, and the terminal."""
