"""The network: Segment Anything (arXiv 2304.02643)."""
