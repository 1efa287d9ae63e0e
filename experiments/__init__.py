"""What reproduces the paper and measures this project: run from a checkout, and no part of the installed package."""
