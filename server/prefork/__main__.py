"""`python -m prefork` is `prefork`."""

from prefork.cli import main

if __name__ == "__main__":
    main()
