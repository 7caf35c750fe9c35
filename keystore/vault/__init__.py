"""Keys and records at rest: every secret wrapped, every record under the shred key whose deletion erases it."""
