"""The paper's own protocol: its pictures, what is measured of them, and its tables (Labarbarie, Itier, Puech, arXiv 2510.01031,
version 2).

Weights and pictures are the user's. docs/metrics.md says where this follows the authors, and where it can not.
"""
