"""``python -m infra.cli``: the same as ``kappa``."""

from infra.cli import main

main()
