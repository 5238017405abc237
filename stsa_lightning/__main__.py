"""`python -m stsa_lightning` is the command `stsa`."""

from stsa_lightning.cli import main

if __name__ == "__main__":
    main()
