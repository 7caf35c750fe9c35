"""What a run, or any other tool's pictures, protects and gives back: measured by Ray Data, told by one page."""
