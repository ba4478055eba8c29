"""The web page's server, which also forwards the browser's requests to the graph. Deployed as a Helm chart."""
