"""`python -m archer` is the command `archer`."""

from archer.cli import main

if __name__ == "__main__":
    main()
