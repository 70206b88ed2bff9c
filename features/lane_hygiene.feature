Feature: A routing proxy keeps its lanes clean
  Haiku goes to the zai lane with its key; all else goes to the anthropic lane with the client's own
  credential. What arrives is what was sent, as it was sent, and nothing of it stays behind.

  Scenario: The proxy of this project keeps its lanes clean
    Given the proxy of this project
    When its traffic is watched under none
    Then every lane gate passes

  Scenario: Any other proxy is judged by the same gates
    Given a stranger's proxy without a fault
    When its traffic is watched under bwrap
    Then every lane gate passes

  Scenario Outline: A fault is named by its gate
    Given a stranger's proxy that <fault>
    When its traffic is watched under none
    Then the lane gate <gate> is red

    Examples:
      | fault                                    | gate                           |
      | sends the zai key to anthropic           | no_zai_credential_on_anthropic |
      | forwards the token to zai                | no_anthropic_credential_on_zai |
      | follows redirects                        | no_anthropic_credential_on_zai |
      | sends haiku to anthropic                 | no_haiku_on_anthropic          |
      | logs a body on errors                    | no_leak                        |
      | sends the zai key only under concurrency | no_zai_credential_on_anthropic |

  Scenario: A proxy that never comes up shows nothing
    Given a proxy command that ends at once
    When its traffic is watched under none
    Then no lane gate passes
