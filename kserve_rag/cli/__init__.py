"""The command line."""

from kserve_rag.cli.app import main

__all__ = ["main"]
