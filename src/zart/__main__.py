"""``python -m zart`` is the command ``zart``."""

from zart.cli import main

if __name__ == "__main__":
    main()
