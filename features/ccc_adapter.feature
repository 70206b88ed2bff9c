Feature: The CCC adapter obeys its privacy tier
  A team records what its agents do. What of it leaves the machine is the team's decision,
  taken once as a privacy tier, paid for by a licence, and kept through every failure.

  Every scenario runs twice: as an ordinary program, and inside a bubblewrap sandbox with an
  empty network, where one socket to the CCC is the only way out.

  Scenario Outline: Local logs only (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "local_only"
    When a session of 3 turns is recorded
    Then the command succeeds
    And the local log holds 3 turns
    And the local summary counts 3 turns and 3 shipped features
    And the data folder holds only the log, the glm counts and the summary
    And not one connection was made

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: Minimized uploads (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "minimized"
    And the licence grants "telemetry_minimized"
    When a session of 3 turns is recorded
    Then the command succeeds
    And the CCC has the numbers of 1 session with 3 turns
    And the CCC has no events
    And no text of the session was on the wire

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: Full tier streams while the session runs (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "full"
    And the licence grants "telemetry_full"
    When a session is started
    And 2 turns are logged
    Then the CCC has 2 turns
    And of their value the CCC has the summary and the links and nothing else
    When the session is ended
    Then the CCC has the numbers of 1 session with 2 turns

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: The entitlement is missing (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "full"
    And the licence grants "telemetry_minimized"
    When a session of 3 turns is recorded
    Then the command is refused because of "lacks the entitlement `telemetry_full`"
    And nothing was written
    And not one connection was made

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: The licence has expired (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "minimized"
    And the licence granted "telemetry_minimized" until yesterday
    When a session of 3 turns is recorded
    Then the command is refused because of "expired on"
    And nothing was written
    And not one connection was made

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: An upload fails, and recovers (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "full"
    And the licence grants "telemetry_full"
    And the CCC refuses its key
    When a session of 3 turns is recorded
    Then the command says that rows are still queued
    And the local log holds 3 turns
    And the status shows 6 rows queued and the error "refused the key"
    When the CCC is well again
    And the queue is uploaded
    Then the command succeeds
    And the CCC has 3 turns
    And the status shows 0 rows queued and no error

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: A replay is not counted twice (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "full"
    And the licence grants "telemetry_full"
    And the CCC's first 2 answers are lost on the way
    When a session of 3 turns is recorded
    Then the command succeeds
    And the CCC has 3 turns
    And the CCC saw rows again and counted them once

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: A killed upload loses nothing (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "full"
    And the licence grants "telemetry_full"
    When a session of 3 turns is killed in the middle of its upload
    And the queue is uploaded
    Then the command succeeds
    And the CCC has 3 turns

    Examples:
      | isolation |
      | none      |
      | bwrap     |

  Scenario Outline: Backfill from the proxy's own logs (<isolation>)
    Given the adapter runs under isolation "<isolation>"
    And the privacy tier is "local_only"
    And the proxy left 5 usage records, 2 of them in one line and 1 of them torn in two
    And 7 bytes that are no record at all
    When the proxy's logs are backfilled
    Then the command succeeds
    And the backfilled summary counts 5 requests
    And it says that 7 bytes could not be read, and where
    And not one connection was made

    Examples:
      | isolation |
      | none      |
      | bwrap     |
