"""The commands of `keyanon`, one module for each group of them; every module keeps torch and Ray behind its own imports."""
