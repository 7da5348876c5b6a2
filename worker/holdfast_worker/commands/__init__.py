"""The client's verbs, one a file. What is heavy (HTTP, models, tables) is imported when a verb runs."""
