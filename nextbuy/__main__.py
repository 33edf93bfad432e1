"""`python -m nextbuy` is `nextbuy`."""

from nextbuy.cli import main

main()
