"""`python -m kserve_rag` is `kserve-rag`."""

from kserve_rag.cli import main

main()
