"""The command line `robust-vit`: parsing of arguments and calls into the library."""
