"""Runs that are killed, and go on; a package, so that forked ranks can import it by one name."""
