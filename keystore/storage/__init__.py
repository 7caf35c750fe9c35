"""Where bytes lie: the tables, their migrations, the embedded database, files that survive a power cut."""
