"""Files and programs that run Outrider in containers."""
