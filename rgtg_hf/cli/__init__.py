"""The `rgtg-hf` command.

Every command is a module `<command>_command.py` with one entry point, `run(arguments)`. It takes the options of the
command line, returns nothing, and raises [`UserError`][rgtg_hf.cli.errors.UserError] for a mistake that the user can
correct. A command of several modules has a folder of its own name. The other modules of this folder are shared by
several commands. `main.py` holds the table of commands.
"""
