"""The command line `robust-vit`: a module a command, which parses arguments and calls the library."""
