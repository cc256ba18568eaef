"""The peers that zart is compared with, each in a virtual environment of its own."""
