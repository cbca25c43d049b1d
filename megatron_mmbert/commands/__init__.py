"""The commands of ``mmbert``, one module each.

A module has the description of the command as its docstring, ``EXAMPLES`` (lines as a user types them) and two
functions: ``add_arguments(parser)`` and ``run(arguments) -> int | None``, whose result is the exit status (None is 0).
To add a command, write such a module and add its line to ``COMMANDS`` in :mod:`megatron_mmbert.cli`.

A module imports at its top only what is light: ``--help``, bad arguments and shell completion answer without NumPy,
pydantic or torch. What does the work is imported in ``run``.
"""
