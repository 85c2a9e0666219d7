"""`python -m taster`: the same as the command."""

from taster.cli import main

if __name__ == "__main__":
    main()
