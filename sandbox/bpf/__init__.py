"""Classic BPF, the language of seccomp filters: compile a profile to it, and read it back."""
