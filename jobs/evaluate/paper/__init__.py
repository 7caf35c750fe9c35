"""The paper's own protocol, run on what a user brings: its weights, its data sets, and their lists."""
