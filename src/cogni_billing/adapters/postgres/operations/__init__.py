"""Operations on a whole database: install, migrate, examine, report, empty, try out."""
