"""The command `tidepool`, as `python -m tidepool`."""

from tidepool.cli import main

if __name__ == "__main__":
    main()
