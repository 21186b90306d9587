"""What goes wrong in one place: a message, a process, a server; and that it stays in that place."""
