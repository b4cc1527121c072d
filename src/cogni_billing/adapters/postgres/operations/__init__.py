"""What is done to a whole database: install, migrate, examine, report, empty, try out."""
