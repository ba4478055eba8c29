"""`python -m kserve_rag`: the same as `kserve-rag`."""

from kserve_rag.cli import main

main()
