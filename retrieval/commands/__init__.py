"""Commands that cli.py groups under a name, and how every command talks. As cli.py: no logic."""
