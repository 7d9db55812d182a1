"""The command line, `python -m helpers`: fetch the data, train, run notebooks, check and report."""

from upkeep.commands import main

if __name__ == "__main__":
    main()
