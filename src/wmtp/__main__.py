"""`python -m wmtp`: the command line."""

from wmtp.cli import main

if __name__ == "__main__":
    main()
