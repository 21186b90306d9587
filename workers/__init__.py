"""Where jobs run: the Dramatiq broker and its actors, the executor, the heartbeat, the runner that replaces what dies, and upkeep."""
