"""The servers that Haulier brings along where it is given none: for `haulier dev`, `make demo`, tests and benchmarks. Never for production.

Each is private: on 127.0.0.1, on a free port that is no server's standard port, with a directory and a password of its own, and
gone when its owner is gone (`console.servers.guard`).
"""
