"""What the command lines of both programs share. Needs cyclopts and pydantic, which only the programs have."""
