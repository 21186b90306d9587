"""The truth in Postgres: the schema, and one module for each family of verbs, each SQL statement beside the function that runs it.

No function here commits: the caller opens the transaction (or hands in a connection in autocommit, for one statement by itself).
"""
