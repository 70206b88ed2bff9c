Feature: The policy engine decides as the 26 normative cases say
  Default deny; deny is terminal; require_review beats allow; order and duplicates never matter.
  What each case sets up stands in `holdfast.suites.kernel_cases`; what must come out stands here.

  Scenario Outline: basic semantics, case <case>: <sentence>
    Given the rules, token and extension of policy case <case>
    When the kernel decides that case's call
    Then the policy outcome is <outcome>, settled in phase <phase> by rules <rules>
    And every determining policy rule gives its reason

    Examples:
      | case | sentence                                                                         | outcome        | phase     | rules        |
      | 1    | nothing matches: deny                                                            | deny           | default   | none         |
      | 2    | only pass: deny                                                                  | deny           | default   | none         |
      | 3    | allow and deny on one call: deny                                                 | deny           | yaml      | closed       |
      | 4    | allow and review: review                                                         | require_review | yaml      | asked        |
      | 5    | built-in allow, extension deny: deny, an allow never short-circuits              | deny           | extension | extension/no |
      | 6    | a review rule whose except matches contributes pass: deny if nothing else allows | deny           | default   | none         |

  Scenario Outline: token path, case <case>: <sentence>
    Given the rules, token and extension of policy case <case>
    When the kernel decides that case's call
    Then the policy outcome is <outcome>, settled in phase <phase> by rules <rules>
    And every determining policy rule gives its reason

    Examples:
      | case | sentence                                                                             | outcome        | phase   | rules              |
      | 7    | valid token, built-in denies: deny                                                   | deny           | builtin | guarded            |
      | 8    | valid token, no built-in objects: allow, and neither YAML nor extension is consulted | allow          | token   | none               |
      | 9    | expired token: full evaluation                                                       | require_review | yaml    | asked              |
      | 21   | uses exhausted: invalid, full evaluation                                             | require_review | yaml    | asked              |
      | 22   | expiry boundary: one time snapshot throughout, and expires_at == now is expired      | allow          | yaml    | extension/yes+open |
      | 23   | container mismatch: invalid, full evaluation                                         | deny           | yaml    | closed             |

  Scenario Outline: except mechanism, case <case>: <sentence>
    Given the rules, token and extension of policy case <case>
    When the kernel decides that case's call
    Then the policy outcome is <outcome>, settled in phase <phase> by rules <rules>
    And every determining policy rule gives its reason

    Examples:
      | case | sentence                                                         | outcome        | phase | rules |
      | 13   | except does not match: review                                    | require_review | yaml  | asked |
      | 14   | several excepts, one matches: pass                               | allow          | yaml  | open  |
      | 15   | several excepts, none matches: review                            | require_review | yaml  | asked |
      | 26   | match equals an except: the rule can never fire; warning at load | allow          | yaml  | open  |

  Scenario Outline: aggregation, case <case>: <sentence>
    Given the rules, token and extension of policy case <case>
    When the kernel decides that case's call
    Then the policy outcome is <outcome>, settled in phase <phase> by rules <rules>
    And every determining policy rule gives its reason

    Examples:
      | case | sentence                                                                | outcome        | phase | rules              |
      | 10   | several review rules: review with all reasons                           | require_review | yaml  | a+b+c              |
      | 11   | YAML deny with extension allow: deny, and the extension is never called | deny           | yaml  | also+closed        |
      | 12   | syscall matches, path does not: rule not applied                        | allow          | yaml  | open               |
      | 16   | several allows: allow                                                   | allow          | yaml  | open+too           |
      | 17   | YAML allow and extension allow: allow                                   | allow          | yaml  | extension/yes+open |

  Scenario Outline: defensive boundaries, case <case>: <sentence>
    Given the rules, token and extension of policy case <case>
    When the kernel decides that case's call
    Then the policy outcome is <outcome>, settled in phase <phase> by rules <rules>
    And every determining policy rule gives its reason

    Examples:
      | case | sentence                                       | outcome | phase     | rules     |
      | 18   | built-in list empty: still works               | allow   | yaml      | open      |
      | 19   | empty YAML: default deny, built-ins active     | deny    | builtin   | guarded   |
      | 20   | extension crashes: deny, restart attempted     | deny    | extension | extension |
      | 24   | unknown syscall: deny                          | deny    | request   | none      |
      | 25   | path_glob: [] matches nothing; warning at load | deny    | default   | none      |

  Scenario Outline: a policy that can never do what it says is warned of at load, case <case>
    Given the rules, token and extension of policy case <case>
    When those policy rules are loaded
    Then loading the policy warns that it <warning>

    Examples:
      | case | warning         |
      | 25   | matches nothing |
      | 26   | can never fire  |

  Scenario: a token's use is taken by an allow and by nothing else
    Given the rules, token and extension of policy case 7
    When the kernel decides that case's call
    Then the policy token has 1 use left

  Scenario: neither YAML nor extension is consulted when a valid token decides
    Given the rules, token and extension of policy case 8
    When the kernel decides that case's call
    Then the policy extension was asked 0 times
    And the policy token has 0 uses left

  Scenario: an extension is not asked once something denied
    Given the rules, token and extension of policy case 11
    When the kernel decides that case's call
    Then the policy extension was asked 0 times
