"""Classic BPF, the language of seccomp filters: compile a profile to it, read it back, prove what it denies.

    Profile --assemble--> bytes                  (source: a profile, a raw file, a live process)
    bytes   --decode-->   Program                instructions that the kernel would load, and no others
    Program --simulate--> answer for one Call    the kernel's interpreter, once more
    Program --encode-->   formula                the answer for every Call at once (Z3)
    Act     --questions-> Question               "can any of these calls pass?", one an ABI
    Question + formula -> Proof                  proven, or a Counterexample, or cannot tell
    Counterexample --Cage--> what the real kernel does with it, executing nothing

Nouns: a *program* is one filter; a *stack* is what a thread is under, oldest first; a *call* is what a
filter is shown (`struct seccomp_data`); an *act* is a set of calls that must not pass; an *answer* is the
32-bit value that a filter returns. `prove_acts` is the door for the harness. Nothing is re-exported, since
the agent and the launchers must not pay for (or need) the solver.
"""
