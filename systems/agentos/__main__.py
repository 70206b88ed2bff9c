"""`python -m holdfast.systems.agentos`."""

from holdfast.systems.agentos.cli import run

if __name__ == "__main__":
    run()
