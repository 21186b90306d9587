"""The operator's floor: the `haulier` command, the private servers behind `haulier dev`, the demo."""
