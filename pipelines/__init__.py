"""What jobs do: one file for each command, in a folder for each domain, found through the table in `pipelines.table`."""
