"""The command line, `python -m helpers`: download the data, train, run notebooks, check, report."""

from helpers.cli import main

if __name__ == "__main__":
    main()
