"""A run: its stages on Ray, where they are placed, what becomes of faults, and the driver of it all."""
