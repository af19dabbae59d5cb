"""What system tests share: the real program as a process, and waiting by predicate."""
