"""Process code for many pages: what daemons look at, and what is looked up by an index."""
