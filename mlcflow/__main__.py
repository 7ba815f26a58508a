"""``python -m mlcflow``: the command line."""

from mlcflow.tools import main

if __name__ == "__main__":
    main(prog_name="mlcflow")
