"""The suites: what is asked for and which numbers come of it. A suite's name is its file."""
