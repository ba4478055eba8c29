"""The web page: its files, and the way from a browser to the graph. Imported into clusters as a Helm chart."""
