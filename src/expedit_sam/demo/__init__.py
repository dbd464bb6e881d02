"""The web demo: a page to try the network on, and the server that brings it."""
