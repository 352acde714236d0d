"""Many pages, in virtual time, with costs."""
