"""The command line: verbs, one short file a group. Everything it does is a function elsewhere."""
