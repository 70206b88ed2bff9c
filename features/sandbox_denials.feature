Feature: A sandbox denies what it is said to deny
  A denial counts only when the same attempt, on the same machine and with the same
  credentials, was shown to succeed without the sandbox.

  Scenario Outline: Each of the five families is open without a sandbox and held inside
    When the battery runs under none, seccomp and bwrap
    Then the family <family> is open under none
    And the family <family> is held under seccomp
    And the family <family> is held under bwrap

    Examples:
      | family        |
      | mount         |
      | unshare       |
      | perf_bpf      |
      | ptrace_keyctl |
      | tiocsti       |

  Scenario: A denial that is there without the sandbox too shows nothing
    Given an agent that reports a denial for everything
    When the battery runs under seccomp
    Then the gate denials cannot tell
    And the report says "is vacuous (denied EPERM / denied EPERM)"

  Scenario: A filter that is not loaded is a breach
    Given a sandbox whose filter is not loaded
    When the battery runs under seccomp
    Then the gate denials fails
    And the report says "ptrace_keyctl is breached by"
