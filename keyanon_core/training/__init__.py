"""Training of pixel-space priors: the faces, what is drawn from them, the network, its loss, and what is measured on the way.

Nothing here knows of processes or clusters: `jobs.train` runs these parts, on one CPU or on many GPUs.
"""
