"""`haulier dev`: everything in one command. A supervisor with the servers, and one child process with all of Haulier's own parts."""
