"""One file per command: its options and what it does.

Each has a frozen dataclass of arguments, whose docstrings are the help, and a function
`run(arguments, console) -> exit status`. Results go to standard output, messages to `console`.
`jaxcap.commands.cli` parses arguments and turns errors into messages.
"""
