"""Where results go: each kind of output is a module of its own, loaded when it is asked for."""
